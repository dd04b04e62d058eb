#!/usr/bin/env bash
# Builds grpcurl, which the examples call the hub with, in the version of tools/grpcurl/go.mod. The last line on standard output is
# the program, which the tests take as SWITCHYARD_GRPCURL. Nothing is done when it is there already; the first build takes a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

modules=tools/grpcurl

say() {
  echo "grpcurl: $1" >&2
}

fail() {
  say "$1"
  exit 1
}

# shellcheck source=scripts/go.sh
source scripts/go.sh

key=$({ cat "$modules/go.mod" "$modules/go.sum" scripts/{grpcurl,go}.sh && uname -sm; } | sha256sum | cut -c 1-16)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}/grpcurl
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
folder=$cache/$key

if [ ! -d "$folder" ]; then
  exec 9>"$cache/lock"
  flock 9
fi
if [ ! -d "$folder" ]; then
  begun=$SECONDS
  # Made beside its place and then renamed, so that what is there is whole.
  making=$(mktemp -d "$cache/making.XXXXXX")
  trap 'rm -rf "$making"' EXIT
  mkdir "$making/bin"
  choose_go "$making"
  # What is set for other builds on this machine, such as GOFLAGS, is not meant for this one.
  (cd "$modules" && GOFLAGS='' GOWORK=off CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w" \
    -o "$making/bin/grpcurl" github.com/fullstorydev/grpcurl/cmd/grpcurl) </dev/null >&2 ||
    fail "grpcurl could not be built; see above"
  chmod 755 "$making/bin"
  mv -T "$making/bin" "$folder"
  say "built in $((SECONDS - begun)) s"
fi
echo "$folder/grpcurl"
