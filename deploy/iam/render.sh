#!/usr/bin/env bash
# Prints the hub's IAM policy for one hub, from hub-policy.json.tmpl beside it. docs/iam.md says what each statement is for.
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
usage: deploy/iam/render.sh --region REGION --account ACCOUNT_ID --load-balancer NAME --hub-id ID [--partition PARTITION]
       [--cloudwatch yes|no]
  REGION         such as eu-central-1
  ACCOUNT_ID     12 digits
  NAME           the name of the Application Load Balancer; a pattern such as shared-* covers several
  ID             the hub's --hub-id, which its resources are tagged with
  PARTITION      aws, aws-cn or aws-us-gov; follows from the region when left out
  --cloudwatch   yes for a hub that is started with --cloudwatch: it may read metrics too; no when left out
TEXT
  exit 2
}

wrong() {
  echo "render.sh: $1" >&2
  exit 2
}

region='' account='' load_balancer='' hub_id='' partition='' cloudwatch=no
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case "$1" in
    --region) region=$2 ;;
    --account) account=$2 ;;
    --load-balancer) load_balancer=$2 ;;
    --hub-id) hub_id=$2 ;;
    --partition) partition=$2 ;;
    --cloudwatch) cloudwatch=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[ -n "$region" ] && [ -n "$account" ] && [ -n "$load_balancer" ] && [ -n "$hub_id" ] || usage

case "$region" in
  cn-*) expected=aws-cn ;;
  us-gov-*) expected=aws-us-gov ;;
  *) expected=aws ;;
esac
partition=${partition:-$expected}

# What goes into the policy is checked, since a stray * would allow more than is meant.
[[ $partition =~ ^aws(-[a-z]+)*$ ]] || wrong "--partition $partition is none; use aws, aws-cn or aws-us-gov"
[[ $region =~ ^[a-z]{2}(-[a-z]+)+-[0-9]+$ ]] || wrong "--region $region is none; use one such as eu-central-1"
[[ $account =~ ^[0-9]{12}$ ]] || wrong "--account $account is not 12 digits"
[[ $load_balancer =~ ^[A-Za-z0-9*-]{1,32}$ ]] || wrong "--load-balancer $load_balancer has other characters than letters, digits, - and *"
[[ $hub_id =~ ^[A-Za-z0-9._-]{1,64}$ ]] || wrong "--hub-id $hub_id is not 1 to 64 letters, digits, hyphens, dots and underscores"

case "$cloudwatch" in
  yes) optional='s/^#cloudwatch#//' ;;
  no) optional='/^#cloudwatch#/d' ;;
  *) wrong "--cloudwatch $cloudwatch is neither yes nor no" ;;
esac

# The prefix is the one that the hub gives every target group.
sed -e "s/@PARTITION@/$partition/g" -e "s/@REGION@/$region/g" -e "s/@ACCOUNT@/$account/g" \
  -e "s/@LOAD_BALANCER@/$load_balancer/g" -e "s/@HUB_ID@/$hub_id/g" -e "s/@PREFIX@/sy-/g" \
  -e "$optional" \
  "$(dirname "$0")/hub-policy.json.tmpl"
