#!/usr/bin/env bash
# Moves all traffic of a policy to a cluster with grpcurl and jq, for machines that have no yardctl. grpcurl learns the
# calls from the hub itself (reflection), so no .proto files are needed.
#
#   HUB=switchyard.example.com:7400 ./grpcurl.sh shop/checkout green release-42
#
# Authentication: a token of the hub or of an issuer that it believes, in the file TOKEN_FILE, which is read anew for every
# call; the hub's authority in TLS_CA (PEM). The token stands in no argument, where others on the machine would see it.
# Request id: the third argument. The same one again makes no second shift, but waits for the first.
# Exit codes: 0 it is served; 8 it went back, or was refused before it began; 7 not known, run it again with the same
# request id; 5 refused, see above; 2 wrong usage. A script that is stopped leaves the shift alone.
set -euo pipefail

[ $# = 3 ] || { echo "usage: $0 NAMESPACE/POLICY CLUSTER REQUEST-ID" >&2; exit 2; }
policy=$1 cluster=$2 request=$3
: "${HUB:?host:port of the hub}"
# The longest wait, in seconds.
timeout=${TIMEOUT:-1800}

call() {
  # shellcheck disable=SC2016 # grpcurl puts the variable in.
  TOKEN=$(< "${TOKEN_FILE:-token}") "${GRPCURL:-grpcurl}" -cacert "${TLS_CA:-ca.crt}" \
    -expand-headers -H 'authorization: Bearer ${TOKEN}' \
    -max-time "$1" -d "$3" "$HUB" "switchyard.api.v1.ShiftService/$2"
}

# grpcurl ends with 64 and the number of the status: 4 DEADLINE_EXCEEDED and 14 UNAVAILABLE say nothing of what was done;
# with 1 no call was made or no answer came.
refused() {
  case $1 in
    68 | 78 | 1) echo "not known: run this again with the same request id" >&2; exit 7 ;;
    *) exit 5 ;;
  esac
}

ask=$(jq --null-input --arg policy "$policy" --arg cluster "$cluster" --arg request "$request" '{
  request_id: $request,
  spec: {
    policies: [{policy: ($policy | split("/") | {namespace: .[0], name: .[1]}), to_cluster: $cluster}],
    reason: "request \($request)"
  }
}')
answer=$(call 30 CreateShift "$ask") || refused $?
id=$(jq --exit-status --raw-output .shift.id <<< "$answer")
echo "shift $id" >&2

# The stream ends once the shift ended. When it breaks before, the question below tells.
call "$timeout" WatchShift "{\"id\": \"$id\"}" |
  jq --unbuffered --raw-output '.shift.status | "\(.state) \(.reason // "") \(.message // "")"' ||
  echo "the stream broke" >&2

shift=$(call 30 GetShift "{\"id\": \"$id\"}") || refused $?
case $(jq --raw-output .shift.status.state <<< "$shift") in
  SHIFT_STATE_SUCCEEDED) exit 0 ;;
  SHIFT_STATE_FAILED | SHIFT_STATE_ABORTED | SHIFT_STATE_SUPERSEDED) exit 8 ;;
  *) echo "it still runs: run this again with the same request id" >&2; exit 7 ;;
esac
