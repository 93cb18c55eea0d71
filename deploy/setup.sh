#!/usr/bin/env bash
# Makes the virtual environments from the locked requirement files, once for each version of those files.
#
#   deploy/setup.sh control   .venv: gateway, controller, admin UI (no torch)
#   deploy/setup.sh dev       the same, with what tests and checks need
#   deploy/setup.sh engine    .venv-engine: SGLang on torch's CPU build, and the demo model in ~/.cache/hydrant/models
#   deploy/setup.sh clients   .venv-clients: LangChain and LlamaIndex, which tests/conformance runs against the gateway
#   deploy/setup.sh gpu       .venv-engine: SGLang with its own CUDA dependencies, instead; `engine` then keeps it
#
# torch's CPU build is looked for where pip is configured to look, then on the index that HYDRANT_TORCH_INDEX names
# (PyTorch's own unless set). Wherever it comes from, its hash must be the locked one.
set -euo pipefail
cd "$(dirname "$0")/.."
# Bytecode compiled at install time halves the engine's import time; some shells switch that off.
unset PYTHONDONTWRITEBYTECODE

TORCH_INDEX=${HYDRANT_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
SGLANG=sglang==0.5.23

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

needs_gigabytes() { # needs_gigabytes <GB> <directory, or one that will be made>
    local free place=$2
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    free=$(df -Pk "$place" | awk 'NR==2 {print int($4 * 1024 / 1000000000)}')
    [ "$free" -ge "$1" ] || die "only ${free} GB are free at $place, and this step needs $1. Free some space and run make again."
}

# Runs a command in the background of a line that says, every few seconds, that it is still at work.
with_progress() {
    local label=$1 log started=$SECONDS
    shift
    log=$(mktemp)
    say "$label ..."
    "$@" >"$log" 2>&1 &
    local pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        if (((SECONDS - started) % 5 == 4)); then say "$label ..."; fi
    done
    if ! wait "$pid"; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "$label failed; the last lines above say why. ${REMEDY:-Run make again once that is mended: finished steps are kept.}"
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

install_locked() { # install_locked <venv> <lock file> [pip options]
    local venv=$1 lock=$2
    shift 2
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock" "$@"
}

install_project() { # editable, so that a checkout is what runs
    "$1/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}

control() { # control <lock file>
    fresh .venv "$1" && return
    # What `dev` made holds all that `control` asks for.
    [ "$1" = requirements/control.txt ] && fresh .venv requirements/dev.txt && return
    needs_gigabytes 2 .
    make_venv .venv
    with_progress "control plane: installing the locked packages into .venv" install_locked .venv "$1"
    with_progress "control plane: linking the checkout" install_project .venv
    stamp "$1" >.venv/.made-from
}

engine() {
    local lock=requirements/engine.txt torch=requirements/torch-cpu.txt
    if is_gpu; then
        say "engine: .venv-engine is the one that deploy/setup.sh gpu made; it is kept (rm -r .venv-engine for the CPU one)"
    elif ! fresh .venv-engine "$lock" "$torch"; then
        # Measured: 2.7 GB installed. In ~/.cache the model (0.3 GB), its wheel, and what pip keeps of its downloads.
        needs_gigabytes 5 .
        needs_gigabytes 2 "$HOME/.cache"
        make_venv .venv-engine
        rm -f .venv-engine/.made-from
        REMEDY="If it says that no version was found or that hashes differ: set HYDRANT_TORCH_INDEX to a package index with PyTorch's CPU builds, and run make again." \
            with_progress "engine: installing torch 2.13.0 (CPU) into .venv-engine" install_torch "$torch"
        with_progress "engine: installing SGLang 0.5.23 and what it needs" install_locked .venv-engine "$lock"
        with_progress "engine: linking the checkout" install_project .venv-engine
        stamp "$lock" "$torch" >.venv-engine/.made-from
    fi
    # Prints its own progress; does nothing when the model is there.
    .venv-engine/bin/python -m engine.prepare_model --out "$HOME/.cache/hydrant/models/SmolLM2-135M-Instruct"
}

# They bring 85 packages, in other versions than ours.
clients() {
    local lock=requirements/clients.txt
    fresh .venv-clients "$lock" && return
    needs_gigabytes 1 .
    make_venv .venv-clients
    with_progress "clients: installing LangChain and LlamaIndex into .venv-clients" install_locked .venv-clients "$lock"
    stamp "$lock" >.venv-clients/.made-from
}

# Asking for "+cpu" fails within a second where there is only the CUDA build; nothing is downloaded in vain.
install_torch() { install_locked .venv-engine "$1" || install_locked .venv-engine "$1" --extra-index-url "$TORCH_INDEX"; }

gpu_stamp() { printf 'gpu %s\n' "$(printf %s "$SGLANG" | cat - deploy/setup.sh pyproject.toml | sha256sum | cut -d' ' -f1)"; }

is_gpu() { [ -f .venv-engine/.made-from ] && grep -q '^gpu ' .venv-engine/.made-from; }

gpu() {
    is_gpu && [ "$(cat .venv-engine/.made-from)" = "$(gpu_stamp)" ] && return
    needs_gigabytes 20 .
    needs_gigabytes 8 "$HOME/.cache"
    # pip would take an installed CPU build of torch for what SGLang asks for.
    is_gpu || rm -rf .venv-engine
    make_venv .venv-engine
    with_progress "gpu: installing $SGLANG with its own dependencies" \
        .venv-engine/bin/pip install --quiet --disable-pip-version-check "$SGLANG"
    with_progress "gpu: linking the checkout" install_project .venv-engine
    gpu_stamp >.venv-engine/.made-from
}

case "${1:-}" in
control) control requirements/control.txt ;;
dev) control requirements/dev.txt ;;
engine) engine ;;
clients) clients ;;
gpu) gpu ;;
*) die "usage: deploy/setup.sh control|dev|engine|clients|gpu" ;;
esac
