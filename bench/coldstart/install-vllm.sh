#!/usr/bin/env bash
# Makes .venv-vllm with vLLM's CPU build, the outside reference of `make bench-coldstart`. Without it, that row is left out.
#
# vllm.txt is locked without torchaudio, torchvision and torchcodec, which vLLM asks for and text does not need: their
# builds are for CUDA, and fail to load beside a torch for CPUs.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset PYTHONDONTWRITEBYTECODE
TORCH=requirements/torch-cpu.txt VLLM=bench/coldstart/vllm.txt
TORCH_INDEX=${HYDRANT_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
MADE_FROM=$(cat "$TORCH" "$VLLM" "$0" | sha256sum)

if [ "$(cat .venv-vllm/.made-from 2>/dev/null)" = "$MADE_FROM" ]; then exit 0; fi
rm -rf .venv-vllm
python3.11 -m venv .venv-vllm
install() { .venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$@"; }
printf 'installing vLLM into .venv-vllm (a few minutes) ...\n'
install "$TORCH" 2>/dev/null || install "$TORCH" --extra-index-url "$TORCH_INDEX"
install "$VLLM"
printf '%s\n' "$MADE_FROM" >.venv-vllm/.made-from
