#!/usr/bin/env bash
# Installs buf, which checks the .proto files, with npm into a folder of its own in the cache, in the versions of the lock file. The
# last line on standard output is the program. Nothing is done, and no network is needed, when it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "buf: $1" >&2
  exit 1
}

if ! command -v npm >/dev/null; then
  remedy="install Node.js 18 or newer with npm"
  command -v apt-get >/dev/null || fail "npm was not found, and no apt-get to install it; $remedy"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "npm was not found, and neither root nor sudo is at hand; $remedy"
  echo "buf: npm was not found, installing the packages nodejs and npm" >&2
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  { "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm; } </dev/null >&2 ||
    fail "apt-get could not install npm; $remedy"
fi

# Another machine or another lock file is another folder.
key=$({ uname -sm && cat tools/buf/package.json tools/buf/package-lock.json; } | sha256sum | cut -c 1-16)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}/buf
folder=$cache/$key
program=$folder/node_modules/.bin/buf

if [ ! -x "$program" ]; then
  echo "buf: installing into $folder" >&2
  mkdir -p "$cache"
  # Made beside its place and then renamed, so that what is there is whole.
  making=$(mktemp -d "$cache/making.XXXXXX")
  trap 'rm -rf "$making"' EXIT
  cp tools/buf/package.json tools/buf/package-lock.json "$making/"
  # No script of a package runs: the program is a file of the package for this machine.
  npm ci --prefix "$making" --ignore-scripts --no-audit --no-fund --loglevel=error >&2 ||
    fail "npm could not install what tools/buf/package-lock.json names; see above"
  "$making/node_modules/.bin/buf" --version >/dev/null || fail "buf is installed, but does not run on this machine"
  # Another run may have been faster; then its folder is as good.
  mv -T "$making" "$folder" 2>/dev/null || [ -x "$program" ] || fail "$folder could not be made"
fi
echo "$program"
