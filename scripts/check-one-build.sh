#!/usr/bin/env bash
# Fails when a package that the programs are made of gets other features with the tests than without them. Then cargo compiles it,
# and everything above it, once for `make demo` and once more for `make test`: some minutes each time.
set -euo pipefail
cd "$(dirname "$0")/.."

# Of every package of the programs: name, version and features, for the machine it runs on. Those that only run while something
# is built (build scripts and macros) are compiled for themselves and do not matter.
packages() {
  cargo tree --locked --workspace --prefix none --no-dedupe --format '{p} {f}' --edges "$1" | grep -v '(proc-macro)' | sort -u
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packages no-dev,no-build,no-proc-macro >"$folder/programs"
packages no-build,no-proc-macro >"$folder/tests"

differing=$(comm -23 "$folder/programs" "$folder/tests")
if [ -n "$differing" ]; then
  echo "check-one-build: these packages have other features when the tests are built, too:"
  awk '{print $1, $2}' <<<"$differing" | while read -r name version; do
    echo "  $name $version"
    echo "    programs: $(grep -F "$name $version " "$folder/programs" | sed "s/.* //")"
    echo "    tests:    $(grep -F "$name $version " "$folder/tests" | sed "s/.* //")"
  done
  echo "name the missing features in [workspace.dependencies], and the package in tests/Cargo.toml, as with either"
  exit 1
fi
