"""How much device memory a stage and a whole worker take, and which device of a node can give it.

The paper reserves ceil(M + K) for a full-memory worker and ceil((M + K) / s) for a low-memory one (M weights, K KV
cache). Here a stage counts its own bytes, since embeddings make stages uneven, weights count as the engine holds them
(float32 arithmetic doubles what float16 files bring), and every engine process counts its context. Consolidation
starts a second process, so a full stage's node must hold M + K + (M + K)/s and two contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.partition import Part
from orchestrator.types import ConsolidationMode, DeviceState, ModelSpec

GPU_CONTEXT_BYTES = 1_500_000_000
"""What the engine takes off a GPU reservation before weights and KV cache: the CUDA context and activations.

The engine's own number (engine/flags.py, GPU_RESERVE_BYTES), which this package may not import; a test holds the two
together."""


def full_bytes(model: ModelSpec, kind: str) -> int:
    """Device memory of a standalone worker on a device of `kind`: M + K + one context."""
    return weights_in_memory(model, model.weights_bytes) + model.kv_reserve_bytes + context_bytes(model, kind)


def stage_bytes(model: ModelSpec, part: Part, kind: str) -> int:
    """Device memory of one stage: its weights, its layers' share of K (rounded up) and one context."""
    kv_share = -(-model.kv_reserve_bytes * part.count // model.layers)
    return weights_in_memory(model, part.size_bytes) + kv_share + context_bytes(model, kind)


def weights_in_memory(model: ModelSpec, file_bytes: int) -> int:
    """Device memory of weights that take `file_bytes` in the model's files, rounded up."""
    return -(-file_bytes * model.loaded_bytes // model.stored_bytes)


def context_bytes(model: ModelSpec, kind: str) -> int:
    """Device memory of one engine process on a device of `kind` besides weights and KV cache."""
    return model.context_bytes + (0 if kind == "cpu" else model.gpu_context_bytes)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a stage sits on a node and, for a full stage of a pipeline, where its standalone worker will.

    stage_bytes       reserved on `device` for the stage.
    standalone_bytes  reserved on `standalone_device` besides; 0 with `mode` None.
    spare_bytes       what stays free on the devices used: smaller is a better fit.
    """

    device: int
    stage_bytes: int
    mode: ConsolidationMode | None
    standalone_device: int
    standalone_bytes: int
    spare_bytes: int


def seat_stage(devices: Sequence[DeviceState], stage: int) -> Seat | None:
    """A seat for a process of `stage` bytes that nothing will grow beside: the device it fits best, or None."""
    device = _best_fit(devices, stage)
    if device is None:
        return None
    return Seat(device.index, stage, None, device.index, 0, device.free_bytes - stage)


def seat_in_place(devices: Sequence[DeviceState], full: int) -> Seat | None:
    """A seat for a stage that grows into its whole worker of `full` bytes: the device it fits best, or None."""
    device = _best_fit(devices, full)
    if device is None:
        return None
    return Seat(device.index, 0, ConsolidationMode.IN_PLACE, device.index, full, device.free_bytes - full)


def seat_full_stage(devices: Sequence[DeviceState], stage: int, full: int, *, drain_first: bool) -> Seat | None:
    """A seat for a stage of `stage` bytes whose node will also run a whole worker of `full` bytes, or None.

    In order: both on one device, the whole worker on another device of the node, and, only with `drain_first`, one
    after the other on a device that has room for the larger.
    """
    both = _best_fit(devices, stage + full)
    if both is not None:
        spare = both.free_bytes - stage - full
        return Seat(both.index, stage, ConsolidationMode.BESIDE_STAGE, both.index, full, spare)
    whole = _best_fit(devices, full)
    if whole is None:
        return None
    beside = _best_fit([device for device in devices if device.index != whole.index], stage)
    if beside is not None:
        spare = whole.free_bytes - full + beside.free_bytes - stage
        return Seat(beside.index, stage, ConsolidationMode.OTHER_DEVICE, whole.index, full, spare)
    larger = max(stage, full)
    turns = _best_fit(devices, larger) if drain_first else None
    if turns is None:
        return None
    spare = turns.free_bytes - larger
    return Seat(turns.index, stage, ConsolidationMode.DRAIN_FIRST, turns.index, larger - stage, spare)


def _best_fit(devices: Sequence[DeviceState], need: int) -> DeviceState | None:
    """The device with the least free memory that still gives `need` bytes; the lower index among equals."""
    fitting = [device for device in devices if device.free_bytes >= need]
    return min(fitting, key=lambda device: (device.free_bytes, device.index), default=None)
