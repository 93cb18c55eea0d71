"""The loading side, in the engine's own environment: real torch, another process, a daemon that dies meanwhile."""

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.weights_source import Model, read_back, until

from engine.weights.progress import Progress

ROOT = Path(__file__).resolve().parents[3]
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
SUPPORT = ROOT / "tests" / "support"
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}

LAST_FILE = "model-00002.safetensors"


class Loader:
    """A loading process; `lines` grows as it prints."""

    def __init__(self, process):
        self.process = process
        self.lines = []
        self._task = asyncio.create_task(self._read())

    async def _read(self):
        while line := await self.process.stdout.readline():
            self.lines.append(json.loads(line))

    async def end(self):
        """Its lines, when it has ended well."""
        async with asyncio.timeout(60):
            code = await self.process.wait()
            await self._task
        assert code == 0, (await self.process.stderr.read()).decode()
        return self.lines


@pytest.fixture
async def load():
    """Start loaders; whatever still runs at the end is killed."""
    loaders = []

    async def start(load_spec, stall_timeout_s=30.0):
        assert ENGINE_PYTHON.exists(), "the engine's environment is missing: run `make setup`"
        command = [ENGINE_PYTHON, SUPPORT / "weights_loader.py", load_spec, str(stall_timeout_s)]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, env=ENVIRONMENT, stdout=pipe, stderr=pipe)
        loaders.append(Loader(process))
        return loaders[-1]

    yield start
    for loader in loaders:
        if loader.process.returncode is None:
            loader.process.kill()
        await loader.end() if loader.process.returncode == 0 else await loader.process.wait()


def digests(lines):
    return {line["name"]: line["sha256"] for line in lines if "name" in line}


@pytest.fixture
def typed_model(tmp_path):
    """One tensor of every kind that engines use, an unaligned one, an empty one and a scalar among them."""
    shapes = {
        "U8": [3], "F32": [2, 5], "F16": [7, 3], "BF16": [4, 4], "F8_E4M3": [9], "F8_E5M2": [8], "I8": [5],
        "I32": [2], "I64": [3], "F64": [2], "BOOL": [4], "U16": [0, 3], "I16": [],
    }  # fmt: skip
    width = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8, "F64": 8, "U16": 2, "I16": 2}
    folder = tmp_path / "typed"
    folder.mkdir()
    model, at, body, rng = Model(folder), 0, b"", random.Random(3)
    for dtype, shape in shapes.items():
        size = width.get(dtype, 1)
        for dim in shape:
            size *= dim
        data = bytes(rng.choices([0, 1], k=size)) if dtype == "BOOL" else rng.randbytes(size)
        entry = {"name": dtype.lower(), "file": "model.safetensors", "begin": at, "end": at + size, "dtype": dtype}
        model.tensors.append(entry | {"shape": shape, "sha256": hashlib.sha256(data).hexdigest()})
        body, at = body + data, at + size
    (folder / "model.safetensors").write_bytes(body)
    return model


async def test_torch_gets_every_dtype_bit_by_bit(typed_model, store, load):
    stage = store.prefetch(typed_model.request("s1"))
    loader = await load(stage.load_spec)
    await stage.wait_verified()
    lines = await loader.end()
    assert digests(lines) == {t["name"]: t["sha256"] for t in typed_model.tensors}
    assert [line["shape"] for line in lines[:-1]] == [t["shape"] for t in typed_model.tensors]
    assert lines[2]["dtype"] == "torch.float16"
    assert lines[4]["dtype"] == "torch.float8_e4m3fn"
    assert lines[-1] == {"events": ["load_start", "first_tensor", "load_end"]}
    # The loader zeroed its tensors: its mapping was private.
    assert read_back(stage.load_spec) == {t["name"]: typed_model.data(t["name"]) for t in typed_model.tensors}


async def test_the_segment_is_readable_by_the_safetensors_library(typed_model, store, shm):
    stage = store.prefetch(typed_model.request("s1"))
    await stage.wait_verified()
    (segment,) = (shm / "store" / "segments").glob("*.safetensors")
    script = (
        "import sys, safetensors.torch as st, torch, hashlib, json; t = st.load_file(sys.argv[1]); "
        "print(json.dumps({k: hashlib.sha256(v.flatten().view(torch.uint8).numpy().tobytes()).hexdigest() "
        "for k, v in t.items()}))"
    )
    run = await asyncio.to_thread(
        subprocess.run, [ENGINE_PYTHON, "-c", script, segment], capture_output=True, check=True, timeout=60
    )
    assert json.loads(run.stdout) == {t["name"]: t["sha256"] for t in typed_model.tensors}


async def test_tensors_come_while_the_rest_is_still_on_its_way(model, server, store, load):
    server.hold_after = {LAST_FILE: 800_000}
    stage = store.prefetch(model.request("s1", source=server.url))
    loader = await load(stage.load_spec)
    await until(lambda: len(loader.lines) >= 8, 60)
    assert not stage.verified
    server.released.set()
    assert digests(await loader.end()) == {t["name"]: t["sha256"] for t in model.tensors}


async def test_a_failed_fetch_ends_the_load_with_its_reason(model, server, store, load):
    server.hold_after = {LAST_FILE: 800_000}
    stage = store.prefetch(model.request("s1", source=server.url))
    loader = await load(stage.load_spec)
    await until(lambda: len(loader.lines) >= 8, 60)
    server.cut_held, server.status = True, 404
    server.released.set()
    lines = await loader.end()
    assert "does not exist" in lines[-1]["error"]
    assert stage.error is not None
    assert stage.error in lines[-1]["error"]


async def test_a_borrowed_tensor_that_moves_is_followed(model, server, store, load):
    server.hold_after = {LAST_FILE: 800_000}
    first = store.prefetch(model.request("s1", source=server.url))
    await until(lambda: first.bytes_fetched > 1_000_000)
    borrower = store.prefetch(model.request("s2", [t["name"] for t in model.tensors[4:]]))
    loader = await load(borrower.load_spec)
    await asyncio.sleep(0.5)
    store.release("s1")
    server.released.set()
    assert digests(await loader.end()) == {t["name"]: t["sha256"] for t in model.tensors[4:]}


async def test_a_load_survives_a_killed_daemon(model, server, make_store, load, shm, tmp_path):
    server.hold_after = {LAST_FILE: 800_000}
    effect = tmp_path / "effect.json"
    effect.write_text(json.dumps(model.effect("s1", source=server.url)))
    command = [sys.executable, SUPPORT / "weights_daemon.py", shm / "store", effect]
    daemon = subprocess.Popen(command, env=ENVIRONMENT)  # noqa: ASYNC220
    try:
        loader = await load(shm / "store" / "stages" / "s1" / "load.json")
        await until(lambda: len(loader.lines) >= 8, 60)
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(10)
    finally:
        daemon.kill()
        daemon.wait(10)
    (sidecar,) = (shm / "store" / "segments").glob("*.landed")
    progress = Progress.open(sidecar)
    missing = [t for i, t in enumerate(model.tensors) if not progress.landed(i)]
    progress.close()
    assert 0 < len(missing) < len(model.tensors)

    store = await make_store()
    store.evict(None)
    assert store.held_digests() == sorted(t["sha256"] for t in model.tensors if t not in missing)
    assert store.get("s1") is None
    server.released.set()
    before = server.weight_bytes()
    stage = store.prefetch(model.request("s1", source=server.url))
    await stage.wait_verified()
    assert stage.bytes_to_fetch == sum(t["end"] - t["begin"] for t in missing)
    assert server.weight_bytes() - before >= stage.bytes_to_fetch
    assert digests(await loader.end()) == {t["name"]: t["sha256"] for t in model.tensors}
    assert len(list((shm / "store" / "segments").glob("*.safetensors"))) == 1
