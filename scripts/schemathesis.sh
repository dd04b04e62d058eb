#!/usr/bin/env bash
# Installs schemathesis, which tries the JSON gateway against its own description, into a Python environment of its own in the cache.
# The last line on standard output is its folder, which the tests take as SWITCHYARD_SCHEMATHESIS. Nothing is done when it is there
# already. scripts/moto.sh comes first in `make setup` and brings Python in where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

least_python=3.11
requirements=tools/schemathesis/requirements.txt

fail() {
  echo "schemathesis: $1" >&2
  exit 1
}

python3 -c "import ensurepip, venv, sys; sys.exit(sys.version_info < (${least_python/./, }))" 2>/dev/null ||
  fail "Python $least_python or newer with its modules venv and ensurepip was not found; run scripts/moto.sh, or install them"

# Another Python or another list of packages is another environment.
key=$({ python3 -c 'import sys, sysconfig; print(sys.version, sys.base_prefix, sysconfig.get_platform())' && cat "$requirements"; } |
  sha256sum | cut -c 1-16)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}/schemathesis
folder=$cache/$key

if [ ! -x "$folder/bin/python" ]; then
  echo "schemathesis: installing into $folder" >&2
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
  "$making/env/bin/python" -c 'import schemathesis' || fail "schemathesis is installed, but cannot be loaded; see above"
  # Another run may have been faster; then its environment is as good.
  mv -T "$making/env" "$folder" 2>/dev/null || [ -x "$folder/bin/python" ] || fail "$folder could not be made"
  echo "schemathesis: installed in $((SECONDS - begun)) s" >&2
fi
echo "$folder"
