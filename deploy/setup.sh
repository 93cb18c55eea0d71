#!/usr/bin/env bash
# Makes the two virtual environments from the locked requirement files, once for each version of those files.
#
#   deploy/setup.sh control   .venv: gateway, controller, admin UI (no torch)
#   deploy/setup.sh dev       the same, with what tests and checks need
#   deploy/setup.sh engine    .venv-engine: SGLang on torch, and the demo model under ~/.cache/hydrant/models
#
# HYDRANT_TORCH_INDEX may name a package index that carries torch's CPU build; without it pip installs what its own
# configuration offers, which on most machines is the CUDA build (it works without a GPU, and is several GB larger).
set -euo pipefail
cd "$(dirname "$0")/.."
# Bytecode compiled at install time halves the engine's import time; some shells switch that off.
unset PYTHONDONTWRITEBYTECODE

say() { printf '[setup %3ds] %s\n' "$SECONDS" "$*"; }
die() { printf 'hydrant setup: %s\n' "$*" >&2; exit 1; }

python_3_11() {
    for candidate in python3.11 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 was not found. Install it (Debian 12, Ubuntu with deadsnakes: apt install python3.11 python3.11-venv) and run make again."
}

needs_gigabytes() {
    local free
    free=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
    [ "$free" -ge "$1" ] || die "only ${free} GB are free on this file system, and this step needs $1. Free some space and run make again."
}

# Runs a command in the background of a line that says, every few seconds, that it is still at work.
with_progress() {
    local label=$1 log started=$SECONDS
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1 &
    local pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        if (((SECONDS - started) % 5 == 4)); then say "$label ..."; fi
    done
    if ! wait "$pid"; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "$label failed; the last lines above say why. Run make again once that is mended: finished steps are kept."
    fi
    rm -f "$log"
    say "$label: done"
}

fresh() { # fresh <venv> <lock files...>: true when the venv was made from exactly these files
    local venv=$1
    shift
    [ -f "$venv/.made-from" ] && [ "$(cat "$venv/.made-from")" = "$(stamp "$@")" ]
}

stamp() { cat "$@" deploy/setup.sh pyproject.toml | sha256sum | cut -d' ' -f1; }

make_venv() {
    local venv=$1 python
    [ -x "$venv/bin/python" ] && return
    python=$(python_3_11)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "this Python cannot make virtual environments. Install its venv module (Debian: apt install python3.11-venv) and run make again."
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

install_locked() { "$1/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$2"; }

install_project() { # editable, so that a checkout is what runs
    "$1/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}

control() { # control <lock file>
    fresh .venv "$1" && return
    # What `dev` made holds all that `control` asks for.
    [ "$1" = requirements/control.txt ] && fresh .venv requirements/dev.txt && return
    needs_gigabytes 2
    make_venv .venv
    with_progress "control plane: installing the locked packages into .venv" install_locked .venv "$1"
    with_progress "control plane: linking the checkout" install_project .venv
    stamp "$1" >.venv/.made-from
}

engine() {
    local lock=requirements/engine.txt
    if ! fresh .venv-engine "$lock"; then
        needs_gigabytes 6
        make_venv .venv-engine
        with_progress "engine: installing torch 2.13.0 into .venv-engine" install_torch
        with_progress "engine: installing SGLang 0.5.23 and what it needs" install_locked .venv-engine "$lock"
        with_progress "engine: linking the checkout" install_project .venv-engine
        stamp "$lock" >.venv-engine/.made-from
    fi
    # Prints its own progress; does nothing when the model is there.
    .venv-engine/bin/python -m engine.prepare_model --out "$HOME/.cache/hydrant/models/SmolLM2-135M-Instruct"
}

install_torch() {
    .venv-engine/bin/pip install --quiet --disable-pip-version-check \
        ${HYDRANT_TORCH_INDEX:+--extra-index-url "$HYDRANT_TORCH_INDEX"} torch==2.13.0
}

case "${1:-}" in
control) control requirements/control.txt ;;
dev) control requirements/dev.txt ;;
engine) engine ;;
*) die "usage: deploy/setup.sh control|dev|engine" ;;
esac
