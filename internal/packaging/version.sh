#!/usr/bin/env bash
# Prints the version that the packages of a build have, as dpkg and rpm sort them.
#
#   version.sh [DESCRIPTION]      what "git describe --tags --always --dirty" said
#
#   v1.2.3               1.2.3
#   v1.2.3-rc.1          1.2.3~rc.1           before 1.2.3
#   v1.2.3-4-g0123abc    1.2.3+4.g0123abc     after 1.2.3
#   0123abc              0~DATE.0123abc       before all, in the order of DATE,
#                                             which is SOURCE_DATE_EPOCH in UTC
#   ...-dirty            ...+dirty or, after a +, ....dirty
set -euo pipefail

description="${1:-}"
tail=
if [[ $description == *-dirty ]]; then
	description="${description%-dirty}"
	tail=dirty
fi
if [[ $description =~ ^(.*)-([0-9]+)-(g[0-9a-f]+)$ ]]; then
	description="${BASH_REMATCH[1]}"
	tail="${BASH_REMATCH[2]}.${BASH_REMATCH[3]}${tail:+.$tail}"
fi

if [[ $description =~ ^v([0-9]+(\.[0-9]+)*)(-([0-9A-Za-z.]+))?$ ]]; then
	version="${BASH_REMATCH[1]}${BASH_REMATCH[4]:+~${BASH_REMATCH[4]}}"
elif [[ $description =~ ^[0-9a-f]*$ ]]; then
	time="$(TZ=UTC printf '%(%Y%m%d%H%M%S)T' "${SOURCE_DATE_EPOCH:--1}")" # -1 is now
	version="0~$time${description:+.$description}"
else
	echo "no package version follows from $description" >&2
	exit 1
fi
echo "$version${tail:++$tail}"
