#!/usr/bin/env bash
# Runs every test and ends with one line, "N passed, N failed", summed up over all test binaries. The exit code is right
# also when no test failed but something else did, such as the build.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The scenarios and the tests of the programs run the real programs, so these are built first.
if ! cargo build --locked --workspace --bins --all-targets; then
  echo "the build failed, no test was run"
  exit 1
fi

# What judges us: a real Kubernetes control plane, moto, grpcurl, Prometheus. Made on the first run, else found in the cache.
SWITCHYARD_KUBE_TOOLS=$(./scripts/kube-tools.sh)
SWITCHYARD_MOTO=$(./scripts/moto.sh)
SWITCHYARD_GRPCURL=$(./scripts/grpcurl.sh)
SWITCHYARD_PROMETHEUS=$(./scripts/prometheus.sh)
SWITCHYARD_SCHEMATHESIS=$(./scripts/schemathesis.sh)
export SWITCHYARD_SCHEMATHESIS
export SWITCHYARD_KUBE_TOOLS SWITCHYARD_MOTO SWITCHYARD_GRPCURL SWITCHYARD_PROMETHEUS

# --no-fail-fast: one broken test says nothing about the others, and the sum is to be complete.
outcome=0
cargo test --locked --workspace --no-fail-fast "$@" 2>&1 | tee "$folder/log" || outcome=$?

awk -v outcome="$outcome" '
  /^test result: / {
    binaries += 1
    for (i = 1; i < NF; i++) {
      if ($(i + 1) ~ /^passed;?$/) passed += $i
      if ($(i + 1) ~ /^failed;?$/) failed += $i
    }
  }
  END {
    if (binaries == 0) print "no test was run"
    if (outcome != 0 && failed == 0) print "cargo test ended with code " outcome " although no test failed: see above"
    printf "%d passed, %d failed\n", passed, failed
    exit(outcome != 0 || failed > 0 || binaries == 0)
  }
' "$folder/log"
