#!/bin/sh
# Installs `ip` and `tc`, which bench/lab makes its networks with: Debian's or Ubuntu's own iproute2 package.
# Does nothing when they are there. Only root can have a lab: for others its tests are skipped, and this ends well.
set -eu

PATH="$PATH:/usr/sbin:/sbin"
if command -v ip >/dev/null && command -v tc >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "install-iproute2.sh: no iproute2; tests of bench/lab need it and root, and are skipped" >&2
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "install-iproute2.sh: no iproute2, and no apt-get to install it with; install iproute2 by hand" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends iproute2
command -v ip >/dev/null && command -v tc >/dev/null
