#!/usr/bin/env bash
# Installs what the tests use besides Go: the ssh clients and servers that people
# have, a second OpenID Connect provider, and what reads units and packages. It does
# nothing when all is there.
#
# It uses apt-get, as root or with a sudo that asks for no password; where it
# cannot, it says what is missing. What is missing does not stop it, because the
# tests that need it are then skipped, unless CI is set: there nothing may be.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# A program, or the absolute path of one, and the Debian package that has it.
needed=(
	"ssh openssh-client"
	"sftp openssh-client"
	"scp openssh-client"
	"ssh-keygen openssh-client"
	"ssh-agent openssh-client"
	"sshd openssh-server"
	"/usr/lib/openssh/sftp-server openssh-sftp-server"
	"dropbear dropbear-bin"
	"dbclient dropbear-bin"
	"dropbearkey dropbear-bin"
	"plink putty-tools"
	"puttygen putty-tools"
	"rsync rsync"
	"expect expect"
	"sshpass sshpass"
	"ncat ncat"
	"socat socat"
	"curl curl"
	"git git"
	"git-lfs git-lfs"
	"ansible ansible-core"
	"dbus-run-session dbus"
	"gnome-keyring-daemon gnome-keyring"
	"perl perl-base"
	"tmux tmux"
	"xauth xauth"
	"script bsdutils"
	"ip iproute2"
	"nsenter util-linux"
	"unshare util-linux"
	"chromium chromium"
	"node nodejs"
	"npm npm"
	"systemctl systemd"
	"systemd-analyze systemd"
	"/lib/systemd/systemd systemd"
	"unshare util-linux"
	"haproxy haproxy"
	"rpm rpm"
	"gcc gcc" # for the race detector
	"/usr/include/stdlib.h libc6-dev"
)

# has PROGRAM: servers are in directories that are not in everybody's PATH.
has() {
	if [[ $1 == /* ]]; then
		[[ -e $1 ]]
	else
		PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null
	fi
}

# missing prints the packages of the programs that are not there, each once.
missing() {
	local entry
	for entry in "${needed[@]}"; do
		has "${entry% *}" || echo "${entry#* }"
	done | sort -u
}

# as_root COMMAND...
as_root() {
	if [[ $EUID -eq 0 ]]; then
		"$@"
	else
		sudo -n "$@"
	fi
}

can_install() {
	command -v apt-get >/dev/null && { [[ $EUID -eq 0 ]] || sudo -n true 2>/dev/null; }
}

policy=/usr/sbin/policy-rc.d
made_policy=

# forbid_services keeps the packages from starting their daemons: tests start
# their own sshd, and nobody asked for one on port 22. See invoke-rc.d(8).
forbid_services() {
	if [[ ! -e $policy ]]; then
		made_policy=yes
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
		as_root chmod 0755 "$policy"
	fi
}

allow_services() {
	if [[ -n $made_policy ]]; then
		as_root rm -f "$policy"
	fi
}

apt() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@"
}

# install_packages PACKAGE...
install_packages() {
	local had_sshd= package known=()
	has sshd && had_sshd=yes
	trap allow_services EXIT
	forbid_services
	apt update || { sleep 5 && apt update; } || return 1
	# One that this system does not have must not keep the others away.
	for package in "$@"; do
		if apt-cache show "$package" >/dev/null 2>&1; then
			known+=("$package")
		fi
	done
	apt install --no-install-recommends ${known[@]+"${known[@]}"} || return 1
	if [[ -z $had_sshd && -d /run/systemd/system ]]; then
		as_root systemctl disable ssh.service ssh.socket || true # nor at the next boot; not every system has both
	fi
}

# install_npm FOLDER: as its package-lock.json says, when that has changed.
install_npm() {
	local lock="$1/package-lock.json" stamp="$1/node_modules/.package-lock.json"
	[[ -f $1/package.json ]] || return 0
	if [[ -f $stamp && ! $lock -nt $stamp && ! $1/package.json -nt $stamp ]]; then
		return 0
	fi
	if ! command -v npm >/dev/null; then
		echo "npm is missing, so $1 cannot be installed" >&2
		return 1
	fi
	# npm may leave its own copy of the lock file older than ours.
	(cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) && touch "$stamp"
}

failed=
mapfile -t packages < <(missing)
if [[ ${#packages[@]} -gt 0 ]]; then
	echo "missing for the tests: ${packages[*]}" >&2
	if can_install; then
		install_packages "${packages[@]}" >&2 || failed=yes
	fi
	mapfile -t packages < <(missing)
fi
if [[ ${#packages[@]} -gt 0 ]]; then
	failed=yes
	cat >&2 <<-EOF

		!!! Not installed: ${packages[*]}
		!!! The tests that need them will be skipped. On Debian or Ubuntu, install them with
		!!!   sudo apt-get update && sudo apt-get install --no-install-recommends ${packages[*]}

	EOF
fi
install_npm internal/oidcprovider || failed=yes

if [[ -n $failed && -n ${CI:-} ]]; then
	echo "CI is set, and not all that the tests need could be installed" >&2
	exit 1
fi
