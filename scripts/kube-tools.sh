#!/usr/bin/env bash
# Finds or builds what a real Kubernetes control plane consists of: etcd, kube-apiserver, kube-controller-manager, kubectl and
# helm, in the versions of tools/kubernetes/go.mod. The last line on standard output is the folder that holds them, which the
# tests take as SWITCHYARD_KUBE_TOOLS. Nothing is done when it is there already; the first build takes five minutes on two cores.
# KUBEBUILDER_ASSETS, where set, is a folder with etcd, kube-apiserver and kubectl that are taken instead.
set -euo pipefail
cd "$(dirname "$0")/.."

# The newest Go that compiles a server that works: one built with Go 1.27 answers /openapi/v2 with 503, and kubectl needs that.
go_series=1.26
go_exact=1.26.8
modules=tools/kubernetes
tools=(etcd kube-apiserver kube-controller-manager kubectl helm)

say() {
  echo "kube-tools: $1" >&2
}

fail() {
  say "$1"
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

version_of() {
  awk -v module="$1" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$modules/go.mod"
}

package_of() {
  case "$1" in
    etcd) echo go.etcd.io/etcd/server/v3 ;;
    helm) echo helm.sh/helm/v3/cmd/helm ;;
    *) echo "k8s.io/kubernetes/cmd/$1" ;;
  esac
}

# Without these a server calls itself v0.0.0-master+$Format:%H$, and helm and kubectl believe it.
stamps() {
  local kubernetes minor
  kubernetes=$(version_of k8s.io/kubernetes)
  [ -n "$kubernetes" ] || fail "$modules/go.mod does not say which version of k8s.io/kubernetes is meant"
  minor=$(cut -d . -f 2 <<<"$kubernetes")
  local stamp
  for stamp in \
    "k8s.io/component-base/version.gitVersion=$kubernetes" \
    "k8s.io/component-base/version.gitMajor=1" \
    "k8s.io/component-base/version.gitMinor=$minor" \
    "k8s.io/component-base/version.gitTreeState=clean" \
    "helm.sh/helm/v3/internal/version.version=$(version_of helm.sh/helm/v3)" \
    "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1" \
    "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=$minor" \
    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1" \
    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$minor"; do
    printf -- '-X %s ' "$stamp"
  done
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
  say "$(go version) is too old to build Kubernetes, fetching Go $go_exact"
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
    *) fail "$found cannot build a Kubernetes that works; install Go $go_series" ;;
  esac
}

build() {
  local tool=$1 into=$2 begun=$SECONDS stamps
  stamps=$(stamps)
  # What is set for other builds on this machine, such as GOFLAGS, is not meant for this one.
  (cd "$modules" && GOFLAGS='' GOWORK=off CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath \
    -ldflags "-s -w $stamps" -o "$into/$tool" "$(package_of "$tool")") </dev/null >&2 ||
    fail "$tool could not be built; see above"
  say "built $tool in $((SECONDS - begun)) s"
}

given=()
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for tool in etcd kube-apiserver kubectl; do
    [ -x "$KUBEBUILDER_ASSETS/$tool" ] || fail "KUBEBUILDER_ASSETS is $KUBEBUILDER_ASSETS, where $tool is missing; unset it or complete it"
  done
  for tool in "${tools[@]}"; do
    [ ! -x "$KUBEBUILDER_ASSETS/$tool" ] || given+=("$tool")
  done
  KUBEBUILDER_ASSETS=$(cd "$KUBEBUILDER_ASSETS" && pwd)
  if [ "${#given[@]}" = "${#tools[@]}" ]; then
    echo "$KUBEBUILDER_ASSETS"
    exit 0
  fi
fi

# Other modules, other flags of this script or other given tools are another folder. The version of Go is not part of it: what
# an allowed one builds is as good, and where everything is built no Go is needed.
key=$({ cat "$modules/go.mod" "$modules/go.sum" scripts/kube-tools.sh && uname -sm && echo "${KUBEBUILDER_ASSETS:-}"; } |
  sha256sum | cut -c 1-16)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}/kube-tools
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
folder=$cache/$key

if [ ! -d "$folder" ]; then
  # Two builds at once would take twice as long; the second waits and finds what the first made.
  exec 9>"$cache/lock"
  flock 9
fi
if [ ! -d "$folder" ]; then
  begun=$SECONDS
  # Made beside its place and then renamed, so that what is there is whole.
  making=$(mktemp -d "$cache/making.XXXXXX")
  trap 'rm -rf "$making"' EXIT
  mkdir "$making/bin"
  for tool in ${given[@]+"${given[@]}"}; do
    ln -s "$KUBEBUILDER_ASSETS/$tool" "$making/bin/$tool"
  done
  choose_go "$making"
  say "building Kubernetes $(version_of k8s.io/kubernetes) with $(cd "$modules" && go env GOVERSION), once for this machine, in $cache"
  for tool in "${tools[@]}"; do
    [ -e "$making/bin/$tool" ] || build "$tool" "$making/bin"
  done
  chmod 755 "$making/bin"
  mv -T "$making/bin" "$folder"
  say "everything is there after $((SECONDS - begun)) s"
fi
echo "$folder"
