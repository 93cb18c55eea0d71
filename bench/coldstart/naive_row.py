"""The rows without Hydrant: a script that fetches the model and starts the stock server, on one node."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.coldstart.models import MODELS_DIR, BenchModel
from bench.coldstart.naive import MODEL
from bench.coldstart.sample import Sample
from bench.coldstart.sampling import Sampler
from bench.lab import Lab
from bench.lab.node import ENGINE_PYTHON, ROOT
from engine import flags
from engine.runtime.environment import node_environment

KEY = "bench"
SHIM = ROOT / "bench/coldstart/shim"
FETCHED = MODELS_DIR.parent / "bench/naive"
"""Where the script puts the model: on the disk, from whose page cache the server then reads it."""
VLLM_PYTHON = ROOT / ".venv-vllm/bin/python"
"""vLLM's CPU build, for an outside reference: bench/coldstart/install-vllm.sh makes it."""
ENDS_WITHIN_S = 20.0


def run(lab: Lab, model: BenchModel, node: str, row: str, number: int, body: dict[str, Any]) -> Sample:
    """One cold start by the script, `row` "naive", "prefetch" or "vllm". Raises LabError."""
    shutil.rmtree(FETCHED, ignore_errors=True)
    home = lab.network.home(node)
    events, log = home / "naive.events", home / "naive.log"
    events.unlink(missing_ok=True)
    files = sorted(path.name for path in model.path.iterdir() if path.is_file())
    argv: list[str | Path] = [ENGINE_PYTHON, "-m", "bench.coldstart.naive"]
    argv += ["--prefetch", "yes" if row == "prefetch" else "no", "--events", events]
    argv += ["--url", f"{lab.store_url}/{model.folder}", "--out", FETCHED, "--files", json.dumps(files)]
    if not lab.network.shaped:
        argv += ["--rate-bps", str(lab.network.payload_mbit * 1e6 / 8)]
    port = lab.nodes[node].settings.ports[1]
    command = _vllm if row == "vllm" else _sglang
    argv += ["--", *command(lab.addresses[node], port, model)]
    url = f"http://{lab.addresses[node]}:{port}/v1/completions"
    before = lab.network.counters()[node]
    with Sampler() as sampler:
        begun = time.monotonic()
        server = lab.network.start(node, argv, env=_environment(), cwd=ROOT, log=log)
        try:
            asking = lab.start_ask(url, body, KEY)
            seen = lab.first_token(asking)
            link = (lab.network.counters()[node] - before).received
            cost = sampler.cost()
            text = lab.finish_ask(asking)["text"]
        finally:
            _end(server)
    offset_s = time.time() - time.monotonic()
    steps = {event["event"]: event["at_ms"] / 1000 - offset_s - begun for event in _read(events)}
    ttft_s = seen["first_token_s"] - begun
    shutil.rmtree(FETCHED, ignore_errors=True)
    return Sample(
        row=row,
        model=model.name,
        round=number,
        ttft_s=ttft_s,
        text=text,
        stages={f"one worker on {node}": steps},
        link={node: link},
        cpu_s=cost.cpu_s,
        peak_bytes=cost.peak_bytes,
        largest_stage_bytes=model.weight_bytes,
        stage_count=1,
        # With the prefetch the process has imported SGLang by then; only without it this is the stock start.
        engine_s=ttft_s - steps["fetch_end"],
    )


def _sglang(address: str, port: int, model: BenchModel) -> list[str | Path]:
    """The stock server with what noded gives a whole worker of the same model."""
    settings = flags.Settings.from_json({"dtype": "float32", "context_length": 2048})
    shape = flags.StageShape(
        rank=0,
        world=1,
        layers=(0,),
        dist_address=None,
        port=port,
        api_key=KEY,
        model_name=model.name,
        memory_bytes=0,
        settings=settings,
    )
    arguments = flags.arguments(shape, flags.StagePlace("cpu", None, 0, (), address, None))
    return [ENGINE_PYTHON, "-m", "sglang.launch_server", "--model-path", MODEL, *arguments]


def _vllm(address: str, port: int, model: BenchModel) -> list[str | Path]:
    """vLLM's own server, without the compilation that would only lengthen its start."""
    where = ["--host", address, "--port", str(port), "--api-key", KEY, "--served-model-name", model.name]
    what = ["--dtype", "float32", "--max-model-len", "2048", "--enforce-eager"]
    return [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, *where, *what]


def _environment() -> dict[str, str]:
    """As Hydrant's engines have it, but with both cores to compute on, and compiled bytecode."""
    environ = os.environ | node_environment("cpu") | {"PYTHONPATH": str(SHIM)}
    environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    for name in ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):
        environ.pop(name, None)
    return environ


def _read(events: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events.read_text().splitlines()]


def _end(server: subprocess.Popen[bytes]) -> None:
    """Kill the server with its children: they are one process group, and nothing of it is needed any more."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(ENDS_WITHIN_S)
    deadline = time.monotonic() + ENDS_WITHIN_S
    while _group_lives(server.pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
