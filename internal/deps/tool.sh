#!/usr/bin/env bash
# Prints the path of a pinned tool, which it builds on first use. The binaries
# live outside of the tree, one for each version of the tool and of Go.
#
#   tool.sh staticcheck | golangci-lint
set -euo pipefail

case "${1:-}" in
staticcheck) module=honnef.co/go/tools/cmd/staticcheck@v0.8.2 ;;
golangci-lint) module=github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 ;;
*)
	echo "usage: $0 staticcheck | golangci-lint" >&2
	exit 2
	;;
esac

dir="${XDG_CACHE_HOME:-$HOME/.cache}/sshgate-tools/$(go env GOVERSION)/$1-${module##*@}"
if [[ ! -x "$dir/$1" ]]; then
	echo "building $module, which takes a few minutes the first time" >&2
	# Installed under another name first: two that build at once, or one that is
	# interrupted, leave no half of a binary.
	mkdir -p "$dir"
	tmp="$(mktemp -d "$dir/build.XXXXXX")"
	trap 'rm -rf "$tmp"' EXIT
	GOFLAGS='' GOBIN="$tmp" go install "$module" >&2
	mv "$tmp/$1" "$dir/$1"
fi
echo "$dir/$1"
