#!/usr/bin/env bash
# Finds a Prometheus server, against which the hub's queries are tested. The last line on standard output is the program's path,
# which the tests take as SWITCHYARD_PROMETHEUS. One that is in PATH is taken as it is; else Debian's package is fetched and
# unpacked into the cache, once. Nothing is installed and no service is started.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "prometheus: $1; install Prometheus 2.30 or newer so that it is in PATH" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

if found=$(command -v prometheus); then
  echo "$found"
  exit 0
fi

cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}/prometheus
# Another release of the system has another package; a newer build of the same one is not worth another download.
key=$({ . /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}"; uname -sm; } | sha256sum | cut -c 1-16)
folder=$cache/$key
program=$folder/usr/bin/prometheus

if [ ! -x "$program" ]; then
  { command -v apt-get && command -v dpkg-deb; } >/dev/null || fail "it was not found, and there is no apt-get to fetch it with"
  mkdir -p "$cache"
  # Made beside its place and then renamed, so that what is there is whole.
  making=$(mktemp -d "$cache/making.XXXXXX")
  trap 'rm -rf "$making"' EXIT
  # As root apt drops its rights to a user of its own for the download.
  chmod 755 "$making"
  mkdir -m 777 "$making/package"
  download() {
    (cd "$making/package" && apt-get download -qq prometheus) </dev/null >&2
  }
  echo "prometheus: it was not found, fetching Debian's package" >&2
  if ! download 2>/dev/null; then
    # The lists of packages may be missing or old.
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "apt-get knows no package prometheus, and neither root nor sudo is at hand to update its lists"
    as_root apt-get update -qq </dev/null >&2 || fail "apt-get could not update its lists"
    download || fail "apt-get could not fetch the package prometheus"
  fi
  dpkg-deb -x "$making"/package/*.deb "$making/root" || fail "the package could not be unpacked"
  [ -x "$making/root/usr/bin/prometheus" ] || fail "the package does not hold usr/bin/prometheus"
  "$making/root/usr/bin/prometheus" --version >/dev/null 2>&1 || fail "the program of the package does not run on this machine"
  # Another run may have been faster; then what it made is as good.
  mv -T "$making/root" "$folder" 2>/dev/null || [ -x "$program" ] || fail "$folder could not be made"
fi
echo "$program"
