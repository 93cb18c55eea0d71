"""Where models run, and how they were started: nodes, stages, cold starts."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from registry.models import ColdStart, Node, Stage


class DeviceDocument(TypedDict):
    """An accelerator, or a set of CPU cores. `free_bytes`: what no stage has reserved."""

    index: int
    kind: str
    name: str
    memory_bytes: int
    free_bytes: int


class NodeDocument(TypedDict):
    """A node as it last reported. `state`: ready, cordoned, draining or lost. `link_bps` is what it says of its link,
    `planned_link_bps` what plans count on, bytes/s. `stages`: how many run there."""

    name: str
    state: str
    address: str
    link_bps: int
    planned_link_bps: int
    port_first: int
    port_last: int
    seen_at_ms: int
    seen_ago_ms: int
    warm: bool
    engine: str | None
    warm_memory_bytes: int | None
    store_bytes: int
    store_limit_bytes: int
    stages: int
    devices: list[DeviceDocument]


class StageDocument(TypedDict):
    """One rank of a group."""

    stage_id: str
    group_id: str
    model: str
    rank: int
    device: int
    layers: str
    state: str
    reserved_bytes: int
    bytes_fetched: int
    bytes_to_fetch: int
    pids: list[int]


class ColdStartDocument(TypedDict):
    """A start of a model: what was predicted, what happened, and the plan with its reasons (or why there was none).

    `why` is `reason` as data.
    """

    cold_start_id: str
    model: str
    cause: str
    state: str
    stages: int
    requested_at_ms: int
    predicted_ttft_ms: int | None
    ready_after_ms: int | None
    first_token_after_ms: int | None
    failed_after_ms: int | None
    reason: str | None
    why: dict[str, Any] | None
    plan: dict[str, Any]


class StepDocument(TypedDict):
    """A bar of a cold start's waterfall: milliseconds since the start was asked for. `end_ms` is null for a step that
    has not ended. `stage_id` is empty for the group as a whole."""

    stage_id: str
    label: str
    step: str
    start_ms: int
    end_ms: int | None


def node_document(
    node: Node, now_ms: int, *, lost_after_ms: int, planned_link_bps: int, free_bytes: Mapping[int, int], stages: int
) -> NodeDocument:
    """A node. What plans count on, and what is free on each device (by index), is the caller's to say."""
    warm, store = node.report.get("warm", {}), node.report.get("store", {})
    return {
        "name": node.name,
        "state": _state(node, now_ms, lost_after_ms),
        "address": node.address,
        "link_bps": node.link_bps,
        "planned_link_bps": planned_link_bps,
        "port_first": node.port_first,
        "port_last": node.port_last,
        "seen_at_ms": node.seen_at_ms,
        "seen_ago_ms": max(0, now_ms - node.seen_at_ms),
        "warm": bool(warm.get("ready")),
        "engine": warm.get("engine"),
        "warm_memory_bytes": warm.get("memory_bytes"),
        "store_bytes": store.get("bytes", 0),
        "store_limit_bytes": store.get("limit_bytes", 0),
        "stages": stages,
        "devices": [
            {
                "index": device.idx,
                "kind": device.kind,
                "name": device.name,
                "memory_bytes": device.memory_bytes,
                "free_bytes": free_bytes[device.idx],
            }
            for device in node.devices
        ],
    }


def stage_document(stage: Stage) -> StageDocument:
    """A stage; its group and that group's model are read too."""
    return {
        "stage_id": stage.id,
        "group_id": stage.group_id,
        "model": stage.group.model.name,
        "rank": stage.rank,
        "device": stage.device_idx,
        "layers": f"{stage.first_layer}-{stage.first_layer + stage.layer_count - 1}",
        "state": stage.state,
        "reserved_bytes": stage.reserved_bytes,
        "bytes_fetched": stage.bytes_fetched,
        "bytes_to_fetch": stage.bytes_to_fetch,
        "pids": list(stage.pids),
    }


def cold_start_document(row: ColdStart) -> ColdStartDocument:
    """A cold start; its model is read too."""
    if row.failed_at_ms is not None:
        state = "failed"
    elif row.ready_at_ms is not None:
        state = "ready"
    else:
        state = "starting"

    def after(at_ms: int | None) -> int | None:
        return None if at_ms is None else at_ms - row.requested_at_ms

    return {
        "cold_start_id": row.id,
        "model": row.model.name,
        "cause": row.cause,
        "state": state,
        "stages": len(row.plan.get("stages", ())),
        "requested_at_ms": row.requested_at_ms,
        "predicted_ttft_ms": row.predicted_ttft_ms,
        "ready_after_ms": after(row.ready_at_ms),
        "first_token_after_ms": after(row.first_token_at_ms),
        "failed_after_ms": after(row.failed_at_ms),
        "reason": row.reason,
        "why": row.why,
        "plan": row.plan,
    }


def _state(node: Node, now_ms: int, lost_after_ms: int) -> str:
    if now_ms - node.seen_at_ms > lost_after_ms:
        return "lost"
    if node.draining:
        return "draining"
    return "cordoned" if node.cordoned else "ready"
