#!/usr/bin/env bash
# Prints the path of a pinned tool, which it builds on first use. The binaries
# live outside of the tree, one for each version of the tool and of Go.
#
#   tool.sh staticcheck | golangci-lint | nfpm | soft
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

case "${1:-}" in
staticcheck) module=honnef.co/go/tools/cmd/staticcheck@v0.8.2 ;;
golangci-lint) module=github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 ;;
nfpm) module=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2 ;;
soft) # Soft Serve, at the version that forge/go.mod has
	module="github.com/charmbracelet/soft-serve/cmd/soft@$(sed -n 's|.*charmbracelet/soft-serve \(v[0-9.]*\).*|\1|p' "$here/forge/go.mod")" ;;
*)
	echo "usage: $0 staticcheck | golangci-lint | nfpm | soft" >&2
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
	if [[ $1 == soft ]]; then
		GOFLAGS='' CGO_ENABLED=0 go build -C "$here/forge" -o "$tmp/$1" "${module%@*}" >&2
	else
		GOFLAGS='' GOBIN="$tmp" go install "$module" >&2
	fi
	mv "$tmp/$1" "$dir/$1"
fi
echo "$dir/$1"
