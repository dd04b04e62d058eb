#!/usr/bin/env bash
# Writes what each program that is shipped is made of, as CycloneDX 1.5 in JSON: every crate that is linked into it, with version,
# checksum, licence, and what depends on what. Crates that only run while something is built (macros, build scripts) are not in the
# program and not in the list. Needs nothing but cargo, bash and awk, so that the images are built with it, too.
#
#   sbom.sh [FOLDER [PACKAGE...]]    into this folder (target/sbom), of these packages (switchyard-hub, switchyard-agent, switchyard-cli)
#
# SBOM_TARGET=TRIPLE speaks of another system than this one. The same commit gives the same bytes; SOURCE_DATE_EPOCH, where set, is the
# time in it, and without it there is none.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(cargo metadata --locked --no-deps --format-version 1 | sed -E 's/.*"target_directory":"([^"]+)".*/\1/')
folder=${1:-$target/sbom}
packages=("${@:2}")
[ ${#packages[@]} -gt 0 ] || packages=(switchyard-hub switchyard-agent switchyard-cli)
triple=${SBOM_TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
mkdir -p "$folder"

stamp=
[ -z "${SOURCE_DATE_EPOCH:-}" ] || stamp=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

for package in "${packages[@]}"; do
  # The program has the package's name, but for the one that people type.
  program=$package
  [ "$package" != switchyard-cli ] || program=yardctl
  # Features as `cargo build -p` has them, which is how the images are built; not those of the whole workspace. Each line is the depth
  # in the tree, then name, version, licence and repository; `(*)` says that what is below was shown before.
  cargo tree --locked --package "$package" --edges normal,no-proc-macro --target "$triple" --prefix depth \
    --format '{p}|{l}|{r}|' >"$folder/$program.tree"
  awk -v program="$program" -v package="$package" -v stamp="$stamp" -v triple="$triple" '
    function text(value) {
      gsub(/\\/, "\\\\", value)
      gsub(/"/, "\\\"", value)
      gsub(/[[:cntrl:]]/, " ", value)
      return "\"" value "\""
    }
    function purl(key) {
      split(key, at, " ")
      # A plus sign of a version means a space to who reads a purl.
      gsub(/\+/, "%2B", at[2])
      return "pkg:cargo/" at[1] "@" at[2]
    }
    function described(key, kind,    at, out) {
      split(key, at, " ")
      out = "{\"type\":" text(kind) ",\"bom-ref\":" text(purl(key)) ",\"name\":" text(kind == "application" ? program : at[1])
      out = out ",\"version\":" text(at[2])
      if (kind != "application") out = out ",\"scope\":\"required\""
      if (key in checksum) out = out ",\"hashes\":[{\"alg\":\"SHA-256\",\"content\":" text(checksum[key]) "}]"
      if (licence[key] != "") out = out ",\"licenses\":[{\"expression\":" text(licence[key]) "}]"
      out = out ",\"purl\":" text(purl(key))
      if (repository[key] ~ /^https:\/\//) {
        out = out ",\"externalReferences\":[{\"type\":\"vcs\",\"url\":" text(repository[key]) "}]"
      }
      return out "}"
    }
    # Cargo.lock: what each crate of the registry has to hash to.
    FNR == NR {
      if ($1 == "name") { gsub(/"/, "", $3); name = $3 }
      if ($1 == "version") { gsub(/"/, "", $3); version = $3 }
      if ($1 == "checksum") { gsub(/"/, "", $3); checksum[name " " version] = $3 }
      next
    }
    {
      split($0, part, "|")
      match(part[1], /^[0-9]+/)
      depth = substr(part[1], 1, RLENGTH) + 0
      split(substr(part[1], RLENGTH + 1), word, " ")
      key = word[1] " " substr(word[2], 2)
      if (!(key in seen)) {
        seen[key] = 1
        keys[++count] = key
        # The slash is an older way to write OR.
        gsub(/ *\/ */, " OR ", part[2])
        licence[key] = part[2]
        repository[key] = part[3]
      }
      above[depth] = key
      if (depth == 0) root = key
      else if (!((above[depth - 1], key) in edge)) {
        edge[above[depth - 1], key] = 1
        below[above[depth - 1]] = below[above[depth - 1]] (below[above[depth - 1]] == "" ? "" : "|") key
      }
    }
    function sorted(list, size,    i, j, held) {
      for (i = 2; i <= size; i++) {
        held = list[i]
        for (j = i - 1; j > 0 && list[j] > held; j--) list[j + 1] = list[j]
        list[j + 1] = held
      }
    }
    END {
      if (root == "") exit 1
      sorted(keys, count)
      print "{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.5\",\"version\":1,"
      printf "\"metadata\":{"
      if (stamp != "") printf "\"timestamp\":%s,", text(stamp)
      printf "\"component\":%s,", described(root, "application")
      printf "\"properties\":[{\"name\":\"cargo:target\",\"value\":%s},{\"name\":\"cargo:package\",\"value\":%s}]},\n", text(triple), text(package)
      print "\"components\":["
      first = 1
      for (i = 1; i <= count; i++) if (keys[i] != root) {
        printf "%s%s", first ? "" : ",\n", described(keys[i], "library")
        first = 0
      }
      print "\n],\n\"dependencies\":["
      for (i = 1; i <= count; i++) {
        size = split(below[keys[i]], needs, "|")
        sorted(needs, size)
        printf "%s{\"ref\":%s,\"dependsOn\":[", i == 1 ? "" : ",\n", text(purl(keys[i]))
        for (j = 1; j <= size; j++) printf "%s%s", j == 1 ? "" : ",", text(purl(needs[j]))
        printf "]}"
      }
      print "\n]}"
    }' Cargo.lock "$folder/$program.tree" >"$folder/$program.cdx.json.new" || {
    echo "sbom: $package has no tree of dependencies" >&2
    exit 1
  }
  rm "$folder/$program.tree"
  mv "$folder/$program.cdx.json.new" "$folder/$program.cdx.json"
  echo "sbom: $folder/$program.cdx.json"
done
