"""A load beside the rest of the start: what waits for it, what does not, and how its failure ends the stage."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import weights as weights_package
from engine.sglang_plugin import overlapped_load, signals

CPU = SimpleNamespace(type="cpu")
PLAIN = SimpleNamespace(quant_config=None)
STAY_S = 0.2
"""How long something that must wait is watched waiting."""


class NoGrad:
    """As torch.no_grad()."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The events of a stage's process that has not loaded yet, with what the control plane's environment lacks of
    torch."""
    monkeypatch.setattr(overlapped_load, "_loads", [])
    path = tmp_path / "events"
    path.touch()
    monkeypatch.setenv(signals.EVENTS_VARIABLE, str(path))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(no_grad=NoGrad))
    return path


class Weights:
    """Loads when it is told that the bytes are there."""

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.loaded: list[Any] = []

    def load(self, model: Any, weights: Any, _device: Any) -> None:
        assert self.landed.wait(10)
        self.loaded.append(weights)


def in_thread(work: Any) -> threading.Thread:
    """`work`, begun in a thread."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def told(events: Path) -> list[str]:
    """The names of the events so far."""
    return [json.loads(line)["event"] for line in events.read_text().splitlines()]


def test_the_start_goes_on_and_a_forward_waits(events: Path) -> None:
    weights, forwards = Weights(), []
    overlapped_load.load_beside(weights.load, PLAIN, "tensors", CPU)
    assert weights.loaded == [], "it came back before a byte was there"
    forward = in_thread(lambda: overlapped_load.wait_for_load(forwards.append, "batch"))
    forward.join(STAY_S)
    assert forwards == []
    assert told(events) == ["wanted"], "from here on only bytes were missing"
    weights.landed.set()
    forward.join(10)
    assert (weights.loaded, forwards) == (["tensors"], ["batch"])
    overlapped_load.wait_for_load(forwards.append, "next")
    assert told(events) == ["wanted"]


def test_weights_that_are_there_in_time_were_not_waited_for(events: Path) -> None:
    weights = Weights()
    weights.landed.set()
    overlapped_load.load_beside(weights.load, PLAIN, "tensors", CPU)
    overlapped_load._loads[0].wait()
    overlapped_load.wait_for_load(lambda: None)
    assert told(events) == []


def test_a_capture_waits_only_where_there_are_graphs() -> None:
    weights, captured = Weights(), []
    overlapped_load.load_beside(weights.load, PLAIN, "tensors", CPU)
    on = {kind: SimpleNamespace(server_args=SimpleNamespace(device=kind)) for kind in ("cpu", "cuda")}
    overlapped_load.wait_before_capture(captured.append, on["cpu"])
    assert captured == [on["cpu"]]
    capture = in_thread(lambda: overlapped_load.wait_before_capture(captured.append, on["cuda"]))
    capture.join(STAY_S)
    assert len(captured) == 1
    weights.landed.set()
    capture.join(10)
    assert len(captured) == 2


def test_what_may_not_be_overlapped_loads_at_once(monkeypatch: pytest.MonkeyPatch, events: Path) -> None:
    weights = Weights()
    weights.landed.set()
    quantized = SimpleNamespace(quant_config=object())
    overlapped_load.load_beside(weights.load, quantized, "quantized", CPU)
    assert weights.loaded == ["quantized"]
    assert told(events) == ["wanted"]
    monkeypatch.delenv(signals.EVENTS_VARIABLE)
    overlapped_load.load_beside(weights.load, PLAIN, "no stage", CPU)
    assert weights.loaded == ["quantized", "no stage"]


def test_an_update_of_a_serving_engine_is_not_overlapped() -> None:
    weights = Weights()
    weights.landed.set()
    overlapped_load.load_beside(weights.load, PLAIN, "first", CPU)
    overlapped_load.wait_for_load(lambda: None)
    weights.landed.clear()
    update = in_thread(lambda: overlapped_load.load_beside(weights.load, PLAIN, "update", CPU))
    update.join(STAY_S)
    assert update.is_alive(), "it must not come back before it has loaded"
    weights.landed.set()
    update.join(10)
    assert weights.loaded == ["first", "update"]


def test_a_failed_load_ends_the_stage_and_computes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))

    def load(*_: Any) -> None:
        raise ValueError("tensor x will not come")

    overlapped_load.load_beside(load, PLAIN, "tensors", CPU)
    with pytest.raises(overlapped_load.LoadFailed, match="tensor x will not come"):
        overlapped_load.wait_for_load(lambda: pytest.fail("computed without weights"))
    assert killed == [(os.getppid(), signal.SIGQUIT)]
    assert "Scheduler hit an exception" in caplog.text
    assert "ValueError: tensor x will not come" in caplog.text


class FakeCuda:
    """torch.cuda as a load uses it; `calls`: in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def set_device(self, device: Any) -> None:
        self.calls.append("set_device")

    def synchronize(self, device: Any) -> None:
        self.calls.append("synchronize")


@pytest.mark.parametrize("pins", [True, False])
def test_on_a_gpu_copies_go_through_pinned_memory_where_there_is_some(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, pins: bool
) -> None:
    cuda = FakeCuda()

    @contextlib.contextmanager
    def copies_through(device: str) -> Iterator[None]:
        cuda.calls.append(f"ring on {device}")
        yield
        cuda.calls.append("ring empty")

    ring = SimpleNamespace(copies_through=copies_through, Cuda=lambda: "the GPU")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(no_grad=NoGrad, cuda=cuda))
    monkeypatch.setitem(sys.modules, "engine.weights.pinned_ring", ring)
    monkeypatch.setattr(weights_package, "pinned_ring", ring, raising=False)
    common = SimpleNamespace(is_pin_memory_available=lambda device: pins)
    monkeypatch.setitem(sys.modules, "sglang.srt.utils.common", common)
    overlapped_load.load_beside(lambda *_: cuda.calls.append("load"), PLAIN, "tensors", SimpleNamespace(type="cuda"))
    overlapped_load._loads[0].wait()
    if pins:
        assert cuda.calls == ["set_device", "ring on the GPU", "load", "ring empty", "synchronize"]
    else:
        assert cuda.calls == ["set_device", "load", "synchronize"]
        assert "SGLang says that none can be pinned" in caplog.text
