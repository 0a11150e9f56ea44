#!/usr/bin/env bash
# Makes the packages of both programs for Linux, a deb and an rpm each.
#
#   package.sh DIRECTORY ARCH...      such as: package.sh dist amd64 arm64
#
# The environment variable VERSION is what the programs print, default "git
# describe"; version.sh makes the packages' version of it. SOURCE_DATE_EPOCH is the
# time of their files, default the commit's. The same tree gives the same packages.
set -euo pipefail
umask 022
if [[ $# -lt 2 ]]; then
	echo "usage: $0 DIRECTORY ARCH..." >&2
	exit 2
fi
mkdir -p "$1"
out="$(cd "$1" && pwd)"
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=internal/packaging

VERSION="${VERSION-$(git describe --tags --always --dirty 2>/dev/null || true)}"
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}"
PACKAGE_VERSION="$($here/version.sh "$VERSION")"
export PACKAGE_VERSION NAME ARCH DESCRIPTION
nfpm="$(internal/deps/tool.sh nfpm)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# build DIRECTORY
build() { make --no-print-directory build BIN="$1" VERSION="$VERSION" >/dev/null; }

# make_texts PROGRAM SECTION: what its commands are the source of, and the licences.
make_texts() {
	local shell dir="$work/texts/$1"
	mkdir -p "$dir/man"
	for shell in bash zsh fish; do
		"$work/native/$1" completion "$shell" >"$dir/$shell"
	done
	go run ./$here/manpages "$work/native/$1" "$2" "$dir/man"
	gzip -9n "$dir/man/"*
	GOOS=linux CGO_ENABLED=0 $here/notices.sh "./cmd/$1" >"$dir/NOTICES"
}

# put MODE FILE PATH: into the package.
put() { install -D -m "$1" "$2" "$root$3"; }

# put_all PROGRAM FORMAT SECTION UNIT: what both packages have.
put_all() {
	local texts="$work/texts/$1" doc="/usr/share/doc/$1" zsh licence page
	case "$2" in # Debian's policy and Fedora's guidelines differ
	deb) zsh=/usr/share/zsh/vendor-completions licence="$doc/copyright" ;;
	rpm) zsh=/usr/share/zsh/site-functions licence="/usr/share/licenses/$1/LICENSE" ;;
	esac
	put 0755 "$work/$ARCH/$1" "/usr/bin/$1"
	install -d -m 0755 "$root/etc/sshgate"
	put 0644 "$here/$4" "/usr/lib/systemd/system/$4"
	put 0644 "$texts/bash" "/usr/share/bash-completion/completions/$1"
	put 0644 "$texts/zsh" "$zsh/_$1"
	put 0644 "$texts/fish" "/usr/share/fish/vendor_completions.d/$1.fish"
	for page in "$texts/man/"*; do
		put 0644 "$page" "/usr/share/man/man$3/${page##*/}"
	done
	put 0644 LICENSE "$licence"
	put 0644 "$texts/NOTICES" "$doc/NOTICES"
	for page in README.md SECURITY.md CHANGELOG.md docs/*.md; do
		put 0644 "$page" "$doc/$page"
	done
}

# pack PROGRAM FORMAT: makes the package of one.
pack() {
	root="$work/stage/root"
	rm -rf "$work/stage"
	mkdir -p "$root"
	case "$1" in
	sshgate)
		put_all sshgate "$2" 1 sshgate-connector.service
		put 0644 config/example.connector.yaml /usr/share/doc/sshgate/examples/connector.yaml
		put 0644 $here/sshgate-connector.openrc /usr/share/doc/sshgate/examples/sshgate-connector.openrc
		put 0644 $here/com.github.sshgate.connector.plist /usr/share/doc/sshgate/examples/com.github.sshgate.connector.plist
		DESCRIPTION='connector and client of the sshgate SSH access gateway
The connector publishes SSH servers and other services through a gateway. It
only dials out. The client reaches them over HTTPS; plain ssh needs nothing of
this.'
		;;
	sshgated)
		put_all sshgated "$2" 8 sshgated.service
		put 0644 config/example.gateway.yaml /usr/share/doc/sshgated/examples/sshgated.yaml
		put 0644 $here/sshgated.sysusers /usr/lib/sysusers.d/sshgated.conf
		DESCRIPTION='SSH access gateway with single sign-on
People reach machines that have no open port with the ssh, git, scp and rsync
they already have: they sign in with single sign-on, and an access policy
decides.'
		;;
	esac
	local script
	for script in postinst prerm postrm; do
		cp "$here/$1.$script" "$work/stage/$script"
	done
	NAME="$1"
	(cd "$work/stage" && "$nfpm" package --config "$OLDPWD/$here/nfpm.yaml" --packager "$2" --target "$out/")
}

(unset GOOS GOARCH && build "$work/native") # they run here, whatever the packages are for
make_texts sshgate 1
make_texts sshgated 8
for ARCH in "$@"; do
	GOOS=linux GOARCH="$ARCH" build "$work/$ARCH"
	for program in sshgate sshgated; do
		pack "$program" deb
		pack "$program" rpm
	done
done
