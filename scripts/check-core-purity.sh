#!/usr/bin/env bash
# The crate core decides and does nothing else: no IO crate in its dependency tree, no clock, no environment, no randomness.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=$(cargo tree --locked -p switchyard-core -e normal --prefix none)
if found=$(grep -E '^(tokio|async-std|smol|mio|socket2|sqlx|tonic|kube|k8s-openapi|aws-|hyper|reqwest|axum|rand|getrandom|nix|libc)[^ ]* ' <<<"$tree"); then
  echo "core may not depend on these; move the code that needs them into hub or agent:" >&2
  echo "$found" >&2
  exit 1
fi

# What a comment says about them does no harm.
if found=$(grep -rnE 'SystemTime::now|Instant::now|Timestamp::now|Zoned::now|std::env|std::fs|std::net::(Tcp|Udp)|std::process|std::thread|env!\(' core/src |
  grep -vE '^[^:]+:[0-9]+:[[:space:]]*//'); then
  echo "core takes the time, the environment and everything else as arguments:" >&2
  echo "$found" >&2
  exit 1
fi
echo "core is pure: $(wc -l <<<"$tree") crates in its tree, none for IO, and no clock"
