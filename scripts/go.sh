# Finds or fetches the Go that builds the programs of tools/. To be sourced by a script that has said `set -euo pipefail`, stands in
# the root of the checkout, and has defined `modules` (the folder with go.mod), `say` and `fail`.

# The newest Go that compiles a Kubernetes that works: one built with Go 1.27 answers /openapi/v2 with 503, and kubectl needs that.
go_series=1.26
go_exact=1.26.8

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

install_go() {
  local remedy="install Go $go_series"
  command -v apt-get >/dev/null || fail "Go was not found, and no apt-get to install it; $remedy"
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "Go was not found, and neither root nor sudo is at hand; $remedy"
  say "Go was not found, installing the package golang-go"
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends golang-go; } </dev/null >&2 ||
    fail "apt-get could not install golang-go; $remedy"
  hash -r
  command -v go >/dev/null || fail "golang-go is installed, but there is no go in PATH; $remedy"
}

# Go from 1.21 on fetches another Go by itself. An older one can fetch it as what it is, a module; that loses which files are
# programs. The result is the folder of that Go.
fetch_go() {
  local module="golang.org/toolchain@v0.0.1-go$go_exact.$(go env GOOS)-$(go env GOARCH)" found place=$1
  say "$(go version) is too old, fetching Go $go_exact"
  mkdir "$place"
  (cd "$place" && go mod init fetch 2>/dev/null && go mod download "$module") >&2 ||
    fail "Go $go_exact could not be fetched; install Go $go_series"
  found=$(go env GOMODCACHE)/$module
  # What the module cache holds may not be changed.
  cp -r "$found" "$place/go"
  chmod -R u+w "$place/go"
  find "$place/go/bin" "$place/go/pkg/tool" -type f -exec chmod +x {} +
}

# Makes the Go in PATH one of the series that works.
choose_go() {
  local place=$1 found major minor
  command -v go >/dev/null || { [ ! -x /usr/local/go/bin/go ] || PATH=$PATH:/usr/local/go/bin; }
  command -v go >/dev/null || install_go
  found=$(GOTOOLCHAIN=local go env GOVERSION)
  IFS=. read -r major minor _ <<<"${found#go}"
  if [ "$major.${minor%%[!0-9]*}" = "$go_series" ]; then
    export GOTOOLCHAIN=local
  elif [ "${minor%%[!0-9]*}" -ge 21 ]; then
    say "$found is not of the series $go_series, which the build needs: it fetches $go_exact"
    export GOTOOLCHAIN=go$go_exact
  else
    fetch_go "$place/fetched"
    export GOTOOLCHAIN=local GOROOT="$place/fetched/go" PATH="$place/fetched/go/bin:$PATH"
  fi
  found=$(cd "$modules" && go env GOVERSION) || fail "Go $go_exact could not be had; install Go $go_series"
  case "$found" in
    "go$go_series" | "go$go_series".*) ;;
    *) fail "$found is not of the series that works; install Go $go_series" ;;
  esac
}
