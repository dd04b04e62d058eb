#!/usr/bin/env bash
# The compiler for scripts/fuzz.sh: cargo calls it as RUSTC_WORKSPACE_WRAPPER, which is for the crates of this workspace only, so that
# everything else is shared with the ordinary build. What is compiled by it counts which of its edges run and what it compares, in
# the way that libFuzzer asks for: LLVM's own pass, which the stable compiler has, with the options that cargo-fuzz uses.
set -euo pipefail

rustc=$1
shift
# Build scripts run while something is built, where nobody counts.
case " $* " in
  *" --crate-name build_script_"*) exec "$rustc" "$@" ;;
esac
# cargo also asks by this way which cfgs there are, and finds libfuzzer-sys in fuzz/Cargo.toml by the first of these.
exec "$rustc" "$@" \
  --cfg fuzzing \
  -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
