#!/usr/bin/env bash
# Texts that lie are worse than none: every link to a file, and every path and `make` target that a text names, has to exist.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
lie() {
  echo "$1: $2" >&2
  failed=1
}

while IFS= read -r file; do
  folder=$(dirname "$file")
  # Links: [text](path#anchor), relative to the text.
  while IFS= read -r link; do
    [ -z "$link" ] || [ -e "$folder/$link" ] || lie "$file" "links to $link, which does not exist"
  done < <(grep -oE '\]\([^)]+\)' "$file" | sed -E 's/^\]\(//; s/\)$//; s/#.*$//' | grep -vE '^(https?|mailto):' | sort -u || true)
  # Paths in backticks that begin with a folder of this repository, relative to its root. Wildcards and placeholders are not meant.
  while IFS= read -r path; do
    [ -e "${path%/}" ] || [ -e "$folder/${path%/}" ] || lie "$file" "names $path, which does not exist"
  done < <(grep -oE '`(proto|core|hub|agent|cli|sandbox|tests|docs|examples|migrations|charts|scripts|crd|tools|images|deploy)/[A-Za-z0-9_./-]*`' "$file" | tr -d '`' | sort -u || true)
  # Tests by file and name.
  while IFS= read -r test; do
    [ -z "$test" ] || grep -qsE "fn ${test##*::}\\b|^ *${test##*::}[:,( ]" "${test%%::*}" || lie "$file" "names the test $test, which does not exist"
  done < <(grep -oE '`(core|hub|agent|cli|sandbox|tests|crd)/[A-Za-z0-9_./-]*[.]rs::[a-z0-9_]+`' "$file" | tr -d '`' | sort -u || true)
  while IFS= read -r target; do
    grep -qE "^$target:" Makefile || lie "$file" "names make $target, which is not in the Makefile"
  done < <(grep -oE '`make [a-z-]+' "$file" | sed 's/`make //' | sort -u || true)
done < <(git ls-files --cached --others --exclude-standard '*.md')

[ "$failed" = 0 ] || exit 1
echo "every path and target that the texts name exists"
