#!/usr/bin/env bash
# Builds cargo-deny, which judges what the programs are made of, in the version that is named here and with the dependencies of its own
# lock file. The last line on standard output is the program. Nothing is done when it is there already; the first build takes three
# minutes on two cores, and leaves nothing behind but the program.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=cargo-deny
# The newest when this was written. Raise it when it cannot read Cargo.lock or the database of advisories any more.
version=0.20.2

say() {
  echo "$tool: $1" >&2
}

fail() {
  say "$1"
  exit 1
}

[ -d "$HOME/.cargo/bin" ] && PATH=$PATH:$HOME/.cargo/bin
command -v cargo >/dev/null || fail "cargo was not found; install Rust with rustup"

# Another compiler or another machine is another program.
key=$({ echo "$version" && rustc --version && uname -sm; } | sha256sum | cut -c 1-16)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}/$tool
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
folder=$cache/$key

if [ ! -x "$folder/$tool" ]; then
  exec 9>"$cache/lock"
  flock 9
fi
if [ ! -x "$folder/$tool" ]; then
  begun=$SECONDS
  say "building $version"
  # Made beside its place and then renamed, so that what is there is whole.
  making=$(mktemp -d "$cache/making.XXXXXX")
  trap 'rm -rf "$making"' EXIT
  # Away from this checkout, whose settings are not meant for the tool; it has to be built fast rather than to be fast.
  (cd "$making" && env -u RUSTFLAGS -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER -u CARGO_BUILD_TARGET \
    CARGO_TARGET_DIR="$making/target" CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=symbols \
    cargo install --quiet --locked --root "$making/root" --no-track \
    "$tool@$version") </dev/null >&2 || fail "it could not be built; see above"
  "$making/root/bin/$tool" --version >/dev/null 2>&1 || fail "it is built, but does not run on this machine"
  rm -rf "$folder"
  mv -T "$making/root/bin" "$folder"
  say "built in $((SECONDS - begun)) s"
fi
echo "$folder/$tool"
