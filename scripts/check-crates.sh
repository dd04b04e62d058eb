#!/usr/bin/env bash
# Judges the crates in Cargo.lock by deny.toml.
#
#   check-crates.sh               licences, bans and sources: what the lock file says by itself
#   check-crates.sh advisories    known faults, after fetching the database of RustSec
set -euo pipefail
cd "$(dirname "$0")/.."

deny=$(./scripts/cargo-deny.sh)
case "${1:-}" in
  "")
    # An entry of deny.toml that nothing fits is a mistake. A crate in two versions is told and no more.
    "$deny" --locked check --hide-inclusion-graph -D warnings -W duplicate bans licenses sources
    echo "every crate is of the registry, under a licence and in a place that deny.toml allows"
    ;;
  advisories)
    # Without the database there is no answer, and no answer is not "nothing found".
    "$deny" --locked check -D warnings advisories || {
      echo "advisories: see above. When the database could not be fetched, nothing was judged: this needs the network" >&2
      exit 1
    }
    ;;
  *)
    echo "check-crates: there is no ${1}; use check-crates.sh, or check-crates.sh advisories" >&2
    exit 2
    ;;
esac
