#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other.
#
#   fuzz.sh [TIME]      TIME for each target, default 10s
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
time="${1:-10s}"

log="$(mktemp)"
trap 'rm -f "$log"' EXIT

# once FOLDER TARGET
once() {
	go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "$1" 2>&1 | tee "$log"
}

# A run that ends with its time can be reported as one that failed for that reason
# alone (https://github.com/golang/go/issues/75804). A finding names its input.
ended_with_its_time() {
	grep -q '^ *context deadline exceeded$' "$log" && ! grep -q 'Failing input' "$log"
}

targets=0
while IFS=: read -r file name; do
	echo "fuzz $name in $(dirname "$file") for $time"
	folder="./$(dirname "$file")"
	once "$folder" "$name" || { ended_with_its_time && once "$folder" "$name"; }
	targets=$((targets + 1))
done < <(git ls-files --cached --others --exclude-standard -- '*_test.go' |
	xargs grep -oHE '^func Fuzz[A-Za-z0-9_]*' | sed 's/:func /:/' | sort -u)
if [[ $targets -eq 0 ]]; then
	echo "there is no fuzz target" >&2
	exit 1
fi
