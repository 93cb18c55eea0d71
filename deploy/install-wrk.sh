#!/bin/sh
# Installs `wrk`, which bench/gateway loads servers with: Debian's or Ubuntu's own package. Does nothing when it is there.
# Who is not root and has no wrk cannot run `make bench-gateway`; its test is skipped, and this ends well.
set -eu

if command -v wrk >/dev/null; then
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "install-wrk.sh: no wrk; bench/gateway and its test need it: as root, apt-get install -y wrk" >&2
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "install-wrk.sh: no wrk, and no apt-get to install it with; install wrk by hand" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends wrk
command -v wrk >/dev/null
