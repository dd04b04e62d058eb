#!/usr/bin/env bash
# Checks what the build needs, and brings in what is missing: a Postgres server, and for the tests also a real Kubernetes
# control plane, moto, grpcurl, Prometheus and cargo-deny, in caches of their own. Installs nothing when everything is there. Starts no service, and
# leaves none running. With the argument `basics` it stops after what the demo needs.
set -euo pipefail
cd "$(dirname "$0")/.."

least_rust=1.95

fail() {
  echo "setup: $1" >&2
  exit 1
}

check_rust() {
  # rustup links its tools here, and a shell that was open before does not know yet.
  [ -d "$HOME/.cargo/bin" ] && PATH="$PATH:$HOME/.cargo/bin"
  command -v cargo >/dev/null && command -v rustc >/dev/null ||
    fail "cargo and rustc are missing; install Rust $least_rust or newer with rustup"
  local found
  found=$(rustc --version | awk '{print $2}')
  [ "$(printf '%s\n' "$least_rust" "${found%%-*}" | sort -V | head -n 1)" = "$least_rust" ] ||
    fail "rustc $found is too old, $least_rust or newer is needed; run: rustup update stable"
  command -v cc >/dev/null || fail "a C compiler is missing (the linker of Rust, and the TLS library); install gcc or clang"
}

has_postgres() {
  local folder
  for folder in /usr/lib/postgresql/*/bin; do
    [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && return 0
  done
  command -v initdb >/dev/null && command -v postgres >/dev/null
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

install_postgres() {
  local remedy="install a Postgres server, so that initdb and postgres are in PATH or in /usr/lib/postgresql/*/bin"
  command -v apt-get >/dev/null || fail "no Postgres server was found, and no apt-get to install one; $remedy"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "no Postgres server was found, and neither root nor sudo is at hand; $remedy"
  echo "setup: no Postgres server was found, installing the package postgresql"
  # The package makes and starts a database cluster of its own, which nobody here uses. This setting stands beside the
  # package's own file, so that no question about a changed file comes up, and goes again.
  local folder=/etc/postgresql-common/createcluster.d
  local setting=$folder/90-switchyard-setup.conf
  as_root mkdir -p "$folder"
  echo "create_main_cluster = false" | as_root tee "$setting" >/dev/null
  local outcome=0
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; } </dev/null ||
    outcome=$?
  as_root rm -f "$setting"
  [ "$outcome" = 0 ] || fail "apt-get could not install the package postgresql; $remedy"
  has_postgres || fail "the package postgresql is installed, but initdb and postgres were not found; $remedy"
}

# The examples of docs/http.md are run with them.
has_curl_and_jq() {
  command -v curl >/dev/null && command -v jq >/dev/null
}

install_curl_and_jq() {
  local remedy="install curl 7.76 or newer, and jq"
  command -v apt-get >/dev/null || fail "curl or jq was not found, and no apt-get to install them; $remedy"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "curl or jq was not found, and neither root nor sudo is at hand; $remedy"
  echo "setup: curl or jq was not found, installing the packages curl and jq"
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends curl jq; } </dev/null ||
    fail "apt-get could not install curl and jq; $remedy"
  has_curl_and_jq || fail "the packages curl and jq are installed, but were not found; $remedy"
}

case "${1:-all}" in
  all | basics) ;;
  *) fail "there is no $1; use setup.sh, or setup.sh basics for what the demo needs" ;;
esac

check_rust
has_postgres || install_postgres
[ "${1:-all}" = all ] || exit 0
has_curl_and_jq || install_curl_and_jq

# Their last line, which is for scripts, is the folder.
./scripts/kube-tools.sh >/dev/null
./scripts/moto.sh >/dev/null
./scripts/schemathesis.sh >/dev/null
./scripts/buf.sh >/dev/null
./scripts/cargo-deny.sh >/dev/null
./scripts/prometheus.sh >/dev/null
./scripts/grpcurl.sh >/dev/null
