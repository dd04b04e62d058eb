#!/usr/bin/env bash
# Runs the demo that cargo has built, wherever its target folder is.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(cargo metadata --locked --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]+)".*/\1/')
# An empty KEEP is none.
[ -n "${KEEP:-}" ] && set -- --keep "$@"
exec "$target/debug/switchyard-demo" "$@"
