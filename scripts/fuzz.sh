#!/usr/bin/env bash
# Builds the fuzz targets with the stable compiler, sees whether faults would be found at all, and then looks for some.
#
#   fuzz.sh [SECONDS [TARGET...]]    each target, or those that are named, for so many seconds (20)
#   fuzz.sh repeat TARGET FILE       tries one input again, such as one that was found
#
# SWITCHYARD_SEED=N begins in the same way every time; without it every run is another. What is learnt stays in the target folder and
# is where the next run goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "fuzz: $1" >&2
  exit 1
}

# Longest input, in bytes, where it is not the usual one: a manifest may have 64 KiB, but what there is to find is found in less.
most_bytes() {
  case "$1" in
    agent_stream | policy_stream | sandbox_query | shift_stream) echo 8192 ;;
    selftest) echo 256 ;;
    *) echo 4096 ;;
  esac
}

all=()
for file in fuzz/fuzz_targets/*.rs; do
  name=$(basename "$file" .rs)
  [ "$name" = selftest ] || all+=("$name")
done

repeat=
if [ "${1:-}" = repeat ]; then
  [ $# = 3 ] || fail "name a target and a file: fuzz.sh repeat TARGET FILE"
  [ -f "$3" ] || fail "there is no file $3"
  repeat=$3
  targets=("$2")
else
  seconds=${1:-20}
  [[ "$seconds" =~ ^[1-9][0-9]{0,5}$ ]] || fail "$seconds is no number of seconds"
  targets=("${@:2}")
  [ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")
fi
for name in "${targets[@]}"; do
  [ -f "fuzz/fuzz_targets/$name.rs" ] || fail "there is no target $name; there are: ${all[*]}"
done

# libFuzzer itself comes as C++ with its package.
if ! command -v c++ >/dev/null; then
  command -v apt-get >/dev/null || fail "a C++ compiler is missing; install g++ or clang"
  echo "fuzz: a C++ compiler was not found, installing the package g++" >&2
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  { "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends g++; } </dev/null >&2 ||
    fail "apt-get could not install g++; install a C++ compiler"
fi

target=$(cargo metadata --locked --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]+)".*/\1/')
work=$target/fuzz
programs=$work/bin
found=$work/found
mkdir -p "$programs" "$found" "$work/log"

begun=$SECONDS
bins=()
for name in selftest "${targets[@]}"; do bins+=(--bin "$name"); done
# With all of the workspace the features are those of the ordinary build, and its crates are taken.
RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/fuzz-rustc.sh cargo build --locked --quiet --workspace "${bins[@]}" ||
  fail "the targets could not be built"
for name in selftest "${targets[@]}"; do
  # An ordinary build puts its own program of the same name there.
  cp "$target/debug/$name" "$programs/$name.new"
  mv "$programs/$name.new" "$programs/$name"
done
echo "fuzz: built in $((SECONDS - begun)) s"

# Where a fault is found is told by its input, and the frames of the debugger are not what has to be read first.
export RUST_BACKTRACE=0

# 1 GiB and 5 s for one input: the hub would be killed by the one, and its callers gone after the other.
limits=(-rss_limit_mb=1024 -timeout=5)

if [ -n "$repeat" ]; then
  exec "$programs/${targets[0]}" "${limits[@]}" "$repeat"
fi

# A search without coverage finds nothing and looks just as good. So it has to find what was planted.
selftest() {
  local log=$work/log/selftest.txt
  if timeout 120 "$programs/selftest" -seed=1 -runs=20000000 -max_len="$(most_bytes selftest)" "${limits[@]}" \
    -artifact_prefix="$work/selftest-" >"$log" 2>&1; then
    fail "the planted fault was not found: coverage or comparisons are not measured any more, see scripts/fuzz-rustc.sh"
  fi
  grep -q "the planted fault was found" "$log" || {
    tail -n 20 "$log" >&2
    fail "the self-test ended with something else than the planted fault"
  }
  rm -f "$work"/selftest-*
}
begun=$SECONDS
selftest
echo "fuzz: the planted fault was found in $((SECONDS - begun)) s"

search() {
  local name=$1 seed=() dictionary=() corpora=() folder
  mkdir -p "$work/corpus/$name"
  corpora=("$work/corpus/$name" "fuzz/corpus/$name")
  folder=fuzz/regressions/$name
  [ ! -d "$folder" ] || corpora+=("$folder")
  [ ! -f "fuzz/dictionaries/$name.dict" ] || dictionary=("-dict=fuzz/dictionaries/$name.dict")
  [ -z "${SWITCHYARD_SEED:-}" ] || seed=("-seed=$SWITCHYARD_SEED")
  timeout $((seconds + 120)) "$programs/$name" "${limits[@]}" "${seed[@]}" "${dictionary[@]}" \
    -max_total_time="$seconds" -max_len="$(most_bytes "$name")" -use_value_profile=1 -print_final_stats=1 \
    -artifact_prefix="$found/$name-" "${corpora[@]}" >"$work/log/$name.txt" 2>&1
}

# What came of one target, in one line; with all that is known when it is a fault.
report() {
  local name=$1 code=$2 log=$work/log/$1.txt runs coverage input
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  coverage=$(grep -oE ' cov: [0-9]+' "$log" | tail -n 1 | grep -oE '[0-9]+' || true)
  if [ "$code" = 0 ] && [ "${runs:-0}" -ge 100 ] && [ "${coverage:-0}" -gt 0 ]; then
    echo "fuzz: $name: $runs inputs, $coverage edges, nothing found"
    return 0
  fi
  if [ "$code" = 0 ]; then
    echo "fuzz: $name: only ${runs:-0} inputs were tried and ${coverage:-0} edges seen; see $log" >&2
    return 1
  fi
  echo "fuzz: $name ended with code $code:" >&2
  grep -vE '^#[0-9]+|NEW_FUNC|^[[:space:]]*$|^stat::|^INFO|^0x|^Base64|^NOTE|Combine libFuzzer' "$log" | tail -n 25 | cut -c 1-2000 >&2
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  if [ -n "$input" ]; then
    echo "fuzz: the input is $input. Try it again, and keep it once the fault is corrected:" >&2
    echo "  scripts/fuzz.sh repeat $name $input" >&2
    echo "  mkdir -p fuzz/regressions/$name && cp $input fuzz/regressions/$name/SAYS-WHAT-IT-WAS" >&2
  else
    # A stack that overflows ends the process before libFuzzer can write anything.
    echo "fuzz: no input was written; the same way again: SWITCHYARD_SEED=$(sed -n 's/^INFO: Seed: //p' "$log") scripts/fuzz.sh $seconds $name" >&2
  fi
  return 1
}

# As many at a time as there are processors.
slots=$(nproc)
failed=0
running=()
settle() {
  local pair=${running[0]} code=0
  running=("${running[@]:1}")
  wait "${pair#*:}" || code=$?
  report "${pair%%:*}" "$code" || failed=1
}
for name in "${targets[@]}"; do
  [ ${#running[@]} -lt "$slots" ] || settle
  search "$name" &
  running+=("$name:$!")
done
while [ ${#running[@]} -gt 0 ]; do settle; done
[ "$failed" = 0 ] || exit 1
