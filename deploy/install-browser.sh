#!/bin/sh
# Installs the browser that tests/browser drives: Debian's or Ubuntu's own chromium package, and a font.
# Needs root (or sudo without a password). Does nothing when a chromium is there already.
set -eu

found() {
    command -v chromium || command -v chromium-browser
}

if found >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "install-browser.sh: no chromium, and no apt-get to install it with; install chromium by hand" >&2
    exit 1
fi
root=""
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "install-browser.sh: chromium is missing; run as root: apt-get install -y chromium fonts-dejavu-core" >&2
        exit 1
    fi
    root="sudo -n"
fi
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -q
$root apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core
found >/dev/null
