#!/usr/bin/env bash
# Runs every test and ends with one line, "N passed, N failed", summed up over all test binaries. The exit code is right
# also when no test failed but something else did, such as the build.
#
#   run-tests.sh                             everything
#   run-tests.sh scenarios hub/store         only binaries with one of these in their name
#   run-tests.sh scenarios:weights           of those only the tests with `weights` in their name
#   run-tests.sh --chaos [...]               the whole chaos suite instead, also what `make test` leaves out
#
# The binaries run several at a time, see tests/src/runner. SWITCHYARD_TEST_SLOTS says how many tests at a time.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=(--workspace --bins --tests)
documentation=(--doc)
if [ "${1:-}" = --chaos ]; then
  shift
  wanted=(--workspace --bins --test chaos --test chaos_full)
  documentation=()
fi
# Whoever names binaries wants those; the examples in the documentation are a name, too.
case "$*" in
  "" | *doc*) ;;
  *) documentation=() ;;
esac

target=$(cargo metadata --locked --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]+)".*/\1/')
folder=$target/test-run
mkdir -p "$folder"

# The scenarios and the tests of the programs run the real programs, so these are built as well.
begun=$SECONDS
if ! cargo build --locked "${wanted[@]}" --message-format=json-render-diagnostics >"$folder/messages.json"; then
  echo "the build failed, no test was run"
  echo "0 passed, 1 failed"
  exit 1
fi
echo "built in $((SECONDS - begun)) s"

# What judges us: a real Kubernetes control plane, moto, grpcurl, Prometheus. Made on the first run, else found in the cache.
SWITCHYARD_KUBE_TOOLS=$(./scripts/kube-tools.sh)
SWITCHYARD_MOTO=$(./scripts/moto.sh)
SWITCHYARD_GRPCURL=$(./scripts/grpcurl.sh)
SWITCHYARD_PROMETHEUS=$(./scripts/prometheus.sh)
SWITCHYARD_SCHEMATHESIS=$(./scripts/schemathesis.sh)
export SWITCHYARD_SCHEMATHESIS
export SWITCHYARD_KUBE_TOOLS SWITCHYARD_MOTO SWITCHYARD_GRPCURL SWITCHYARD_PROMETHEUS

exec "$target/debug/switchyard-run-tests" --messages "$folder/messages.json" --folder "$folder" "${documentation[@]}" "$@"
