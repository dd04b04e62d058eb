#!/usr/bin/env bash
# Finds or builds what a real Kubernetes control plane consists of: etcd, kube-apiserver, kube-controller-manager, kubectl and
# helm, in the versions of tools/kubernetes/go.mod. The last line on standard output is the folder that holds them, which the
# tests take as SWITCHYARD_KUBE_TOOLS. Nothing is done when it is there already; the first build takes five minutes on two cores.
# KUBEBUILDER_ASSETS, where set, is a folder with etcd, kube-apiserver and kubectl that are taken instead.
set -euo pipefail
cd "$(dirname "$0")/.."

modules=tools/kubernetes
tools=(etcd kube-apiserver kube-controller-manager kubectl helm)

say() {
  echo "kube-tools: $1" >&2
}

fail() {
  say "$1"
  exit 1
}

# shellcheck source=scripts/go.sh
source scripts/go.sh

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
key=$({ cat "$modules/go.mod" "$modules/go.sum" scripts/{kube-tools,go}.sh && uname -sm && echo "${KUBEBUILDER_ASSETS:-}"; } |
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
