#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that the tests and the demo need: strongSwan as
# the peer, and the tools that build networks, load and judge them. Packages
# named as arguments are installed as well. Does nothing when all are there.
set -euo pipefail

packages=(
  systemd charon-systemd strongswan-swanctl strongswan-pki
  libcharon-extra-plugins libcharon-extauth-plugins
  libstrongswan-standard-plugins libstrongswan-extra-plugins
  iproute2 iputils-ping nftables iperf3 tcpdump tshark
  netbase gcc libc6-dev "$@"
)
cd "$(dirname "$0")/.."

fail() {
  echo "setup.sh: $*" >&2
  exit 1
}

# go.mod says which Go; an older one either fetches that or fails here.
if ! command -v go >/dev/null; then
  fail "Go is not installed or not in PATH; install Go 1.26 or later from https://go.dev/dl/"
elif ! go list -m >/dev/null 2>&1; then
  fail "$(go version 2>&1 | head -n 1) cannot build this module; install Go 1.26 or later from https://go.dev/dl/"
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || fail "not a Debian machine; install by hand what provides: ${missing[*]}"
[ "$(id -u)" = 0 ] || fail "must be root to install: ${missing[*]}"

# Nothing that is installed here may start: the tests start what they need, in
# namespaces of their own. What stood in policy-rc.d before comes back.
policy=/usr/sbin/policy-rc.d
work=$(mktemp -d /var/tmp/quicksand-setup.XXXXXX)
restore() {
  if [ -e "$work/policy-rc.d" ]; then
    mv -f "$work/policy-rc.d" "$policy"
  elif [ -e "$work/no-policy" ]; then
    rm -f "$policy"
  fi
  rm -rf "$work"
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if [ -e "$policy" ]; then
  cp -p "$policy" "$work/policy-rc.d"
else
  touch "$work/no-policy"
fi
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

# Maintainer scripts of a long upgrade lose a shared temporary directory when
# something else cleans it.
mkdir "$work/tmp"
export TMPDIR="$work/tmp" DEBIAN_FRONTEND=noninteractive
apt() {
  apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 \
    -o Dpkg::Options::=--force-confold -o APT::Get::Show-Upgraded=false "$@"
}
echo "setup.sh: installing ${missing[*]}"
apt update
if ! apt install --no-install-recommends "${missing[@]}"; then
  # A first attempt that died half-way is mended before the second.
  dpkg --configure -a || true
  apt -f install
  apt install --no-install-recommends "${missing[@]}"
fi
