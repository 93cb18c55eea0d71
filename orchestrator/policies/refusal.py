"""Why a policy that takes any node cannot start a model now, with the numbers a person needs to change that."""

from collections.abc import Sequence

from orchestrator import equal_share, memory
from orchestrator.plan import RETRY_MS
from orchestrator.types import Candidate, ModelSpec, NodeState, NoPlan, NoPlanReason


def refuse(
    model: ModelSpec, nodes: Sequence[NodeState], judged: tuple[Candidate, ...] = (), *, whole_device: bool = False
) -> NoPlan:
    """The refusal, for a model of which no whole worker can be placed on `nodes`, none of which is cordoned.

    With `whole_device` a device that anything else uses has no room.
    """
    devices = [device for node in nodes for device in node.devices]
    if not devices:
        return NoPlan(model.name, NoPlanReason.NO_NODES, {"cordoned": 0}, judged, RETRY_MS)
    need = min(memory.full_bytes(model, device.kind) for device in devices)
    largest = max(device.memory_bytes for device in devices)
    usable = (d.free_bytes for d in devices if not whole_device or d.free_bytes == d.memory_bytes)
    free = max(usable, default=0)
    detail: dict[str, int | str] = {"need_bytes": need, "largest_bytes": largest, "free_bytes": free}
    if largest < need:
        return NoPlan(model.name, NoPlanReason.MODEL_TOO_LARGE, detail, judged, None)
    if free < need:
        return NoPlan(model.name, NoPlanReason.NO_MEMORY, detail, judged, RETRY_MS)
    linked = [node for node in nodes if node.link_bps > 0]
    ends = [ms for node in linked for ms in equal_share.finish_ms(node.link_bps, node.fetches).values() if ms > 0]
    if not linked:
        return NoPlan(model.name, NoPlanReason.LINKS_DOWN, {"nodes": len(nodes)}, judged, None)
    return NoPlan(model.name, NoPlanReason.LINKS_BUSY, {"fetches": len(ends)}, judged, min(ends, default=RETRY_MS))
