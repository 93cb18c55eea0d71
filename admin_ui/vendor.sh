#!/bin/sh
# Fetches the admin UI's browser libraries again, exactly as committed under static/vendor.
# Needs npm and sha256sum. To upgrade: change a version, run it, look at the UI, then put the printed digest here.
set -eu
cd "$(dirname "$0")/static/vendor"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch NAME VERSION SHA256: unpacks the package's tarball into $work/package, once its digest matches.
fetch() {
    rm -rf "$work/package"
    tarball=$(cd "$work" && npm pack --silent "$1@$2")
    got=$(sha256sum "$work/$tarball" | cut -d' ' -f1)
    if [ "$got" != "$3" ]; then
        echo "vendor.sh: $1@$2 has SHA-256 $got, expected $3: nothing was replaced by it" >&2
        exit 1
    fi
    tar -xzf "$work/$tarball" -C "$work"
}

fetch htmx.org 2.0.11 165a2655073e9e6e55e307a7c74e8ebcdb76afb7701f9c16cfd106a13add408e
cp "$work/package/dist/htmx.min.js" htmx.min.js
cp "$work/package/LICENSE" htmx.LICENSE

fetch @picocss/pico 2.1.1 4affbb56f49df6d5325610b06762156f1dcdbc6ef57cea5c136d7e8a00a8cd24
cp "$work/package/css/pico.min.css" pico.min.css
cp "$work/package/LICENSE.md" pico.LICENSE
