#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other.
#
#   fuzz.sh [TIME]      TIME for each target, default 10s
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
time="${1:-10s}"

targets=0
while IFS=: read -r file name; do
	echo "fuzz $name in $(dirname "$file") for $time"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")"
	targets=$((targets + 1))
done < <(git ls-files --cached --others --exclude-standard -- '*_test.go' |
	xargs grep -oHE '^func Fuzz[A-Za-z0-9_]*' | sed 's/:func /:/' | sort -u)
if [[ $targets -eq 0 ]]; then
	echo "there is no fuzz target" >&2
	exit 1
fi
