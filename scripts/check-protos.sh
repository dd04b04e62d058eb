#!/usr/bin/env bash
# Checks the .proto files with buf: its lint, and that nothing was changed which callers and agents of the last release hold on to.
# What that release was is the last tag, or proto/baseline.binpb as long as there is none.
#   check-protos.sh           checks proto/
#   check-protos.sh FOLDER    checks another folder of the same form, for the tests of this script
#   check-protos.sh accept    makes proto/baseline.binpb anew from proto/, when a version is released without a tag
set -euo pipefail
cd "$(dirname "$0")/.."

baseline=proto/baseline.binpb
buf=$(./scripts/buf.sh)
# buf keeps nothing of value, and a home folder need not be writable.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export BUF_CACHE_DIR=$scratch/cache

if [ "${1:-}" = accept ]; then
  "$buf" lint proto
  "$buf" build proto --exclude-source-info --output "$baseline"
  echo "$baseline holds what is there now"
  exit 0
fi
folder=${1:-proto}
[ -f "$folder/buf.yaml" ] || {
  echo "protos: $folder holds no buf.yaml; name a folder such as proto" >&2
  exit 2
}

against=$baseline
# Tags of a fork or of a checkout without history say nothing about this.
if tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null) && git cat-file -e "$tag:proto/buf.yaml" 2>/dev/null; then
  mkdir "$scratch/released"
  git archive "$tag" proto | tar -x -C "$scratch/released"
  against=$scratch/released/proto
fi

"$buf" lint "$folder"
"$buf" breaking "$folder" --against "$against" || {
  echo "protos: this breaks callers of ${tag:-the last release}; add fields and calls beside the old ones instead" >&2
  exit 1
}
echo "the .proto files pass buf's lint, and break nothing of ${tag:-the baseline}"
