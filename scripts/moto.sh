#!/usr/bin/env bash
# Installs moto, which judges the wire format and the IAM policies, into a Python environment of its own in the cache. The last
# line on standard output is its folder, which the tests take as SWITCHYARD_MOTO. Nothing is done when it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

least_python=3.11
requirements=tools/moto/requirements.txt

fail() {
  echo "moto: $1" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

can_make_environments() {
  command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null
}

install_python() {
  local remedy="install Python $least_python or newer with its modules venv and ensurepip"
  command -v apt-get >/dev/null || fail "Python with venv was not found, and no apt-get to install it; $remedy"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "Python with venv was not found, and neither root nor sudo is at hand; $remedy"
  echo "moto: Python with venv was not found, installing the packages python3 and python3-venv" >&2
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv; } </dev/null >&2 ||
    fail "apt-get could not install python3-venv; $remedy"
  can_make_environments || fail "python3-venv is installed, but venv does not work; $remedy"
}

can_make_environments || install_python
python3 -c "import sys; sys.exit(sys.version_info < (${least_python/./, }))" ||
  fail "$(python3 --version) is too old, $least_python or newer is needed"

# Another Python or another list of packages is another environment.
key=$({ python3 -c 'import sys, sysconfig; print(sys.version, sys.base_prefix, sysconfig.get_platform())' && cat "$requirements"; } |
  sha256sum | cut -c 1-16)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}/moto
folder=$cache/$key

if [ ! -x "$folder/bin/python" ]; then
  echo "moto: installing into $folder" >&2
  begun=$SECONDS
  mkdir -p "$cache"
  # Made beside its place and then renamed, so that what is there is whole. An environment may be moved as long as its
  # programs are not started by their own scripts, which hold the old path: the tests call bin/python.
  making=$(mktemp -d "$cache/making.XXXXXX")
  trap 'rm -rf "$making"' EXIT
  python3 -m venv "$making/env" >&2
  # Whatever was set for the machine's own Python is not meant for this one.
  env -u PYTHONPATH -u PYTHONHOME "$making/env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    --require-hashes --requirement "$requirements" >&2 ||
    fail "pip could not install $requirements; see above"
  "$making/env/bin/python" -c 'import moto.server, moto.elbv2.models, moto.iam.models' ||
    fail "moto is installed, but cannot be loaded; see above"
  # Another run may have been faster; then its environment is as good.
  mv -T "$making/env" "$folder" 2>/dev/null || [ -x "$folder/bin/python" ] || fail "$folder could not be made"
  echo "moto: installed in $((SECONDS - begun)) s" >&2
fi
echo "$folder"
