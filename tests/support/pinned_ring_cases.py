"""Cases of the pinned ring, run in the engine's environment: a JSON line each, {"case": name, "error": why or null}.

The device is a stand-in that copies as late as CUDA may: only when somebody waits for an event, and then in order. A
buffer that is filled again too early is therefore seen: other bytes arrive.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import traceback
import weakref
from types import SimpleNamespace
from typing import Any

import torch

from engine.weights import pinned_ring
from engine.weights.pinned_ring import Ring, copies_through


class LateDevice:
    """Host memory that plays a device's. `early`: waits return at once, as if nobody waited. `refuses`: cannot pin."""

    def __init__(self, early: bool = False, refuses: bool = False) -> None:
        self.early, self.refuses = early, refuses
        self.queue: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.given, self.done, self.released, self.waits = 0, 0, 0, 0
        self.storages: set[int] = set()
        self.pins: list[weakref.ref[torch.Tensor]] = []

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        made = torch.zeros(shape, dtype=dtype)
        self.storages.add(made.untyped_storage().data_ptr())
        return made

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.storages

    def pinned(self, nbytes: int) -> torch.Tensor:
        if self.refuses:
            raise RuntimeError("CUDA error: OS call failed or operation not supported on this OS")
        made = torch.full((nbytes,), 0xEE, dtype=torch.uint8)
        self.pins.append(weakref.ref(made))
        return made

    def copy(self, destination: torch.Tensor, source: torch.Tensor) -> None:
        assert source.dtype == destination.dtype, "a copy engine moves bytes"
        self.queue.append((destination, source))
        self.given += 1

    def record(self) -> Any:
        point = self.given
        return SimpleNamespace(synchronize=lambda: self.wait(point))

    def wait(self, point: int) -> None:
        self.waits += 1
        if not self.early:
            self.run(point)

    def run(self, point: int) -> None:
        while self.done < point:
            destination, source = self.queue.pop(0)
            destination.copy_(source)
            self.done += 1

    def release_pinned(self) -> None:
        self.released += all(pin() is None for pin in self.pins)


def same(arrived: torch.Tensor, sent: torch.Tensor) -> bool:
    return torch.equal(arrived.contiguous().view(-1).view(torch.uint8), sent.contiguous().view(-1).view(torch.uint8))


def noise(count: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8).view(dtype)


def filled(device: LateDevice, sizes: list[int], buffers: int, buffer_bytes: int) -> list[tuple[Any, Any]]:
    """Tensors of so many bytes, copied one after the other: (what arrived, what was sent)."""
    ring = Ring(device, buffers, buffer_bytes)
    pairs = [(device.tensor(size, dtype=torch.uint8), noise(size)) for size in sizes]
    for arrived, sent in pairs:
        kept = sent.clone()
        ring.copy(arrived, kept)
        # Its owner may overwrite it at once.
        kept.fill_(0)
    ring.finish()
    device.run(device.given)
    return pairs


def a_buffer_is_not_filled_before_it_is_empty() -> None:
    device = LateDevice()
    pairs = filled(device, [64, 64, 10, 64, 1, 64, 33], buffers=3, buffer_bytes=64)
    assert all(same(*pair) for pair in pairs)
    assert device.waits == 4 + 3, "the first three buffers were free; at the end all three are waited for"


def the_stand_in_sees_a_buffer_that_is_filled_too_early() -> None:
    pairs = filled(LateDevice(early=True), [64] * 7, buffers=3, buffer_bytes=64)
    assert not all(same(*pair) for pair in pairs), "these cases would pass whatever the ring did"


def tensors_of_any_size() -> None:
    rng = random.Random(5)
    for _ in range(100):
        buffers, buffer_bytes = rng.randint(1, 5), rng.choice([16, 64, 256])
        sizes = [rng.choice([0, 1, buffer_bytes - 1, buffer_bytes, buffer_bytes + 1, rng.randint(0, 2000)])
                 for _ in range(rng.randint(1, 12))]  # fmt: skip
        device = LateDevice()
        pairs = filled(device, sizes, buffers, buffer_bytes)
        assert all(same(*pair) for pair in pairs), (buffers, buffer_bytes, sizes)
        assert not device.queue


def the_device_may_come_to_its_work_at_any_time() -> None:
    rng = random.Random(6)
    for _ in range(30):
        device, pairs = LateDevice(), []
        ring = Ring(device, 4, 64)
        for _ in range(20):
            size = rng.randint(1, 300)
            pairs.append((device.tensor(size, dtype=torch.uint8), noise(size)))
            ring.copy(*pairs[-1])
            device.run(rng.randint(device.done, device.given))
        ring.finish()
        assert all(same(*pair) for pair in pairs)


def every_dtype_bit_by_bit() -> None:
    kinds = [torch.uint8, torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.int16, torch.float16,
             torch.bfloat16, torch.int32, torch.float32, torch.int64, torch.float64]  # fmt: skip
    device = LateDevice()
    ring = Ring(device, 2, 64)
    pairs = [(device.tensor(5, 41, dtype=kind), noise(205, kind).view(5, 41)) for kind in kinds]
    pairs.append((device.tensor(7, dtype=torch.bool), torch.tensor([1, 0, 1, 1, 0, 0, 1], dtype=torch.bool)))
    for pair in pairs:
        ring.copy(*pair)
    ring.finish()
    assert all(same(*pair) for pair in pairs)


def another_dtype_is_cast_as_torch_casts_it() -> None:
    device = LateDevice()
    source = torch.randn(1000).mul_(1e4)
    for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int32):
        ring, arrived = Ring(device, 2, 64), device.tensor(1000, dtype=kind)
        ring.copy(arrived, source)
        ring.finish()
        assert same(arrived, source.to(kind)), kind


def loaders_copies_go_through_the_ring() -> None:
    device = LateDevice()
    parameter = torch.nn.Parameter(device.tensor(6, 32))
    halves = [torch.randn(3, 32), torch.randn(3, 32)]
    with copies_through(device):
        for i, half in enumerate(halves):
            parameter.data.narrow(0, 3 * i, 3).copy_(half)
    assert device.given == 2
    assert same(parameter.data, torch.cat(halves))
    assert device.released == 1, "the buffers are given back"


def what_the_ring_cannot_do_is_copied_as_ever() -> None:
    device = LateDevice()
    ring_did = device.tensor(4, 4)
    turned, wide, by_row, scalar = (device.tensor(4, 4) for _ in range(4))
    matrix = torch.randn(4, 4)
    host = torch.zeros(4, 4)
    with copies_through(device):
        turned.copy_(matrix.t())
        wide[:, 1:3].copy_(matrix[:, 1:3])
        by_row.copy_(matrix[0])
        scalar.copy_(torch.tensor(3.0))
        host.copy_(matrix)
        assert turned.copy_(turned) is turned
        assert device.given == 1, "of these only the copy of a whole tensor, which here is both host and device"
        assert ring_did.copy_(matrix, True) is ring_did
        with_pending = [same(turned, matrix.t()), same(by_row[2], matrix[0]), float(scalar[3, 3]), same(host, matrix)]
        assert with_pending == [True, True, 3.0, True]
        assert same(wide[:, 1:3], matrix[:, 1:3])
        assert float(wide[:, 0].sum()) == 0.0
    assert same(ring_did, matrix)


def other_threads_are_left_alone() -> None:
    device = LateDevice()
    arrived, sent = device.tensor(8), torch.randn(8)
    with copies_through(device):
        thread = threading.Thread(target=arrived.copy_, args=(sent,))
        thread.start()
        thread.join()
    assert same(arrived, sent)
    assert device.given == 0


def where_pinning_is_refused_copies_stay_and_the_log_says_why() -> None:
    device, told = LateDevice(refuses=True), []
    handler = logging.Handler()
    handler.emit = told.append  # type: ignore[method-assign, assignment]
    pinned_ring.logger.addHandler(handler)
    arrived, sent = device.tensor(8), torch.randn(8)
    try:
        with copies_through(device):
            arrived.copy_(sent)
    finally:
        pinned_ring.logger.removeHandler(handler)
    assert same(arrived, sent)
    (record,) = told
    assert "unpinned memory: CUDA error: OS call failed" in record.getMessage()


def a_failed_load_gives_the_buffers_back() -> None:
    device = LateDevice()
    arrived, sent = device.tensor(8), torch.randn(8)
    try:
        with copies_through(device):
            arrived.copy_(sent)
            raise ValueError("tensor x will not come")
    except ValueError as error:
        assert "will not come" in str(error)  # noqa: PT017
    else:
        raise AssertionError("the error was swallowed")
    assert same(arrived, sent)
    assert device.released == 1


def sglangs_own_loaders_go_through_the_ring() -> None:
    from engine.sglang_plugin import torchvision_shim

    torchvision_shim.install()
    from sglang.srt.layers import linear
    from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from sglang.srt.model_loader.weight_utils import default_weight_loader

    alone: dict[str, Any] = {"bias": False, "parallel_group": "replicated"}
    qkv = linear.QKVParallelLinear(64, 16, 4, 2, **alone).weight
    gate_up = linear.MergedColumnParallelLinear(64, [96, 96], **alone).weight
    down = linear.RowParallelLinear(96, 64, **alone).weight
    embedding = VocabParallelEmbedding(100, 64, enable_tp=False).weight
    norm = torch.nn.Parameter(torch.ones(64))
    norm.weight_loader = default_weight_loader
    loads = [(qkv, 64, "q"), (qkv, 32, "k"), (qkv, 32, "v"), (gate_up, 96, 0), (gate_up, 96, 1), (down, 64), (norm, 64)]
    device, sent = LateDevice(), []
    for parameter in (qkv, gate_up, down, embedding, norm):
        device.storages.add(parameter.untyped_storage().data_ptr())
    with torch.no_grad(), copies_through(device):
        for parameter, rows, *shard in [*loads, (embedding, 100)]:
            sent.append((parameter, torch.randn(rows, *parameter.shape[1:])))
            parameter.weight_loader(parameter, sent[-1][1], *shard)
    assert device.given == len(sent), "each tensor of a checkpoint in one copy, those of fused weights too"
    for parameter in (qkv, gate_up, down, embedding, norm):
        whole = torch.cat([tensor for target, tensor in sent if target is parameter])
        assert same(parameter.data[: len(whole)], whole)


CASES = (
    a_buffer_is_not_filled_before_it_is_empty,
    the_stand_in_sees_a_buffer_that_is_filled_too_early,
    tensors_of_any_size,
    the_device_may_come_to_its_work_at_any_time,
    every_dtype_bit_by_bit,
    another_dtype_is_cast_as_torch_casts_it,
    loaders_copies_go_through_the_ring,
    what_the_ring_cannot_do_is_copied_as_ever,
    other_threads_are_left_alone,
    where_pinning_is_refused_copies_stay_and_the_log_says_why,
    a_failed_load_gives_the_buffers_back,
    sglangs_own_loaders_go_through_the_ring,
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        error = None
        try:
            case()
        except Exception:  # noqa: BLE001 - whatever it was, it is that case's result
            error = traceback.format_exc()
        print(json.dumps({"case": case.__name__, "error": error}), flush=True)
