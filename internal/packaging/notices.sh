#!/usr/bin/env bash
# Prints the licences of what is linked into a program, which they ask for.
#
#   notices.sh PACKAGE      such as ./cmd/sshgate
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# notice NAME DIRECTORY
notice() {
	local file found=
	for file in "$2"/{LICENSE,LICENCE,COPYING,NOTICE}*; do
		if [[ -f $file ]]; then
			found=yes
			printf '==== %s: %s\n\n' "$1" "${file##*/}"
			cat "$file"
			printf '\n'
		fi
	done
	if [[ -z $found ]]; then
		echo "$1 in $2 has no licence" >&2
		exit 1
	fi
}

notice "$(go env GOVERSION)" "$(go env GOROOT)"
while read -r module dir; do
	notice "$module" "$dir"
done < <(go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}} {{.Dir}}{{end}}{{end}}' "$1" | sort -u)
