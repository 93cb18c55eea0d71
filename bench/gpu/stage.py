"""A stage of SGLang on the device, from the fork of a warm runtime to its first token, beside the stock server's start.

Only where SGLang is installed. Both get the same arguments and a model whose weights are in shared memory, so that no
disk and no link is measured: what remains is the runtime's own time and the way to the device.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gpu import SHARED
from bench.gpu.rows import Row
from engine import flags
from engine.runtime.environment import DeviceKind, node_environment
from engine.sglang_plugin.hooks import GPU_BYTES_VARIABLE
from engine.weights import load_spec
from engine.weights.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "bench/coldstart/shim"
"""Lets the stock server start beside a torch without CUDA; elsewhere it does nothing."""
HOST, KEY, CONTEXT = "127.0.0.1", "bench", 2048
MEMORY_BYTES = 16_000_000_000
WITHIN_S = 240.0
LOOK_S = 0.02
FORKED, STOCK = "fork of the warm runtime, until the first token", "launch_server, until the first token"


def empty_rows() -> dict[str, Row]:
    """What Stages fills."""
    return {name: Row(name, "s") for name in (FORKED, STOCK)}


class StageFailed(Exception):
    """A server did not answer; the message has the end of its log."""


class Stages:
    """Starts in turn, of the model in `source` (made by engine.prepare_model), on a "cuda" or "cpu" device.

    Seconds go to `rows`.
    """

    def __init__(self, kind: DeviceKind, source: Path, rows: Mapping[str, Row]) -> None:
        self._kind, self._rows = kind, rows
        # Short, because unix sockets are made in it.
        self._home = Path(tempfile.mkdtemp(prefix="hyb-"))
        self._model = Path(tempfile.mkdtemp(prefix="hydrant-bench-gpu-", dir=SHARED))
        shutil.copytree(source, self._model, dirs_exist_ok=True)
        self._environ = os.environ | node_environment(kind) | {"PYTHONPATH": str(ROOT)}
        self._warm: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End what runs, and remove what was made."""
        if self._warm is not None:
            self._warm.terminate()
            self._warm.wait()
        shutil.rmtree(self._model)
        shutil.rmtree(self._home)

    def warm_up(self) -> None:
        """Start the warm runtime and wait until it can fork. Raises StageFailed."""
        config, log = self._home / "node.toml", self._home / "warm.log"
        lines = ["[node]", f'run_dir = "{self._home}"', "warm_memory_gb = 20", "[[device]]", f'kind = "{self._kind}"']
        config.write_text("\n".join(lines))
        environ = self._environ | {"HYDRANT_NODE_CONFIG": str(config)}
        with log.open("wb") as out:
            self._warm = subprocess.Popen(
                [sys.executable, "-m", "engine.warm"], cwd=ROOT, env=environ, stdout=out, stderr=out
            )
        deadline = time.monotonic() + WITHIN_S
        while not (self._home / "warm.sock").exists():
            if self._warm.poll() is not None or time.monotonic() > deadline:
                raise StageFailed(f"the warm runtime did not come up: {_end(log)}")
            time.sleep(LOOK_S)

    def round(self) -> None:
        """Start each once. Raises StageFailed."""
        self._start(FORKED, self._fork)
        self._start(STOCK, self._launch)

    def _start(self, name: str, start: Any) -> None:
        port = _free_port()
        log = self._home / f"{port}" / "log"
        log.parent.mkdir()
        begun = time.monotonic()
        leader = start(port, log)
        try:
            _first_token(port, leader, log)
            self._rows[name].samples.append(time.monotonic() - begun)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)
            _gone(leader)

    def _arguments(self, port: int) -> tuple[list[str], dict[str, str]]:
        settings = flags.Settings(context_length=CONTEXT, grammar_backend="none")
        shape = flags.StageShape(0, 1, (1,), None, port, KEY, "bench", MEMORY_BYTES, settings)
        gpu = 0 if self._kind == "cuda" else None
        place = flags.StagePlace(self._kind, gpu, MEMORY_BYTES, (), HOST, None)
        return flags.arguments(shape, place), flags.environment(shape, place)

    def _fork(self, port: int, log: Path) -> int:
        directory = log.parent
        argv, env = self._arguments(port)
        metrics = directory / "metrics"
        metrics.mkdir()
        env |= {"TMPDIR": str(directory), "PROMETHEUS_MULTIPROC_DIR": str(metrics), "HYDRANT_STAGE": "bench"}
        env |= {"HYDRANT_STAGE_EVENTS": str(directory / "events")}
        (directory / "stage.json").write_text(json.dumps({"argv": argv, "env": env, "cores": []}))
        paths = {"model_dir": str(self._model), "load_spec": str(write_load_spec(self._model, directory))}
        (directory / "model.json").write_text(json.dumps(paths))
        with socket.socket(socket.AF_UNIX) as warm:
            warm.connect(str(self._home / "warm.sock"))
            warm.sendall(json.dumps({"stage_dir": str(directory)}).encode() + b"\n")
            answer = json.loads(warm.makefile().readline())
        if "pid" not in answer:
            raise StageFailed(f"the warm runtime does not fork: {answer}")
        return int(answer["pid"])

    def _launch(self, port: int, log: Path) -> int:
        argv, env = self._arguments(port)
        env.pop(GPU_BYTES_VARIABLE, None)
        # As published: without what Hydrant's plugin does in a stage, which those variables switch on.
        command = [sys.executable, "-m", "sglang.launch_server", *argv, "--model-path", str(self._model)]
        env |= {"PYTHONPATH": f"{SHIM}:{ROOT}"}
        with log.open("wb") as out:
            return subprocess.Popen(
                command, cwd=ROOT, env=self._environ | env, stdout=out, stderr=out, start_new_session=True
            ).pid


def write_load_spec(model: Path, directory: Path) -> Path:
    """A load spec of the model's own files: a safetensors file with a sidecar is a segment."""
    entries = []
    for shard in sorted(model.glob("*.safetensors")):
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        sidecar = directory / f"{shard.stem}.landed"
        progress = Progress.create(sidecar, len(header))
        for index, (name, tensor) in enumerate(header.items()):
            begin, end = tensor["data_offsets"]
            place = (str(shard), str(sidecar), index, 8 + length + begin, end - begin)
            entries.append(load_spec.Entry(name, tensor["dtype"], tuple(tensor["shape"]), *place))
            progress.set_landed(index)
        progress.close()
    load_spec.write(directory / "load.json", "bench", entries)
    return directory / "load.json"


def _first_token(port: int, leader: int, log: Path) -> None:
    body = json.dumps({"model": "bench", "prompt": "The capital of France is", "max_tokens": 1, "temperature": 0})
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline and _stat(leader)[0] not in ("Z", "gone"):
        connection = http.client.HTTPConnection(HOST, port, timeout=WITHIN_S)
        try:
            connection.request("POST", "/v1/completions", body, headers)
            answer = connection.getresponse()
            if answer.status == 200 and json.loads(answer.read())["usage"]["completion_tokens"] == 1:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(LOOK_S)
    raise StageFailed(f"it ended, or gave no token in {WITHIN_S:.0f} s: {_end(log)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _gone(leader: int) -> None:
    """Wait until the processes of a session that was killed are gone: the next start must have the device alone."""
    while any(_stat(path.name)[1] == str(leader) for path in Path("/proc").glob("[0-9]*")):
        # The stock server is this process' child, and stays until it is waited for.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(leader, os.WNOHANG)
        time.sleep(LOOK_S)


def _stat(pid: int | str) -> tuple[str, str]:
    """State and session of a process; ("gone", "") when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone", ""
    return fields[0], fields[3]


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:] if log.exists() else "it wrote no log"
