#!/usr/bin/env bash
# Makes what `make bench-gateway` compares with, .venv-litellm and .venv-sglrouter, from locked files. Does nothing when
# both are there.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset PYTHONDONTWRITEBYTECODE

make_venv() { # make_venv <venv> <lock file>
    local venv=$1 lock=$2 made_from
    made_from=$(cat "$lock" "$0" | sha256sum)
    if [ "$(cat "$venv/.made-from" 2>/dev/null)" = "$made_from" ]; then return; fi
    rm -rf "$venv"
    python3.11 -m venv "$venv"
    printf 'installing %s into %s ...\n' "$lock" "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock"
    printf '%s\n' "$made_from" >"$venv/.made-from"
}

make_venv .venv-litellm bench/gateway/litellm.txt
make_venv .venv-sglrouter bench/gateway/sglang-router.txt
