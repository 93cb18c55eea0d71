"""Cold starts with their groups, stages and usage in SQL, as controller and ledger write them, for tests of money."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session
from support.registry_rows import usage_event

from registry.ids import new_id, now_ms
from registry.models import ColdStart, Device, Group, Model, Node, Price, Stage, Tenant
from registry.ops.group_costs import open_cost

STARTED_AGO_MS = 1_000_000
READY_AFTER_MS = 4_000
MEMORY = 80_000
RESERVED = (20_000, 60_000)
STARTUP_GPU_US = READY_AFTER_MS * 1000
"""Two stages, of a quarter and three quarters of their devices."""


def add_start(
    session: Session, model: Model, *, ready: bool = True, stopped_after_ms: int | None = None, cause: str = "demand"
) -> Group:
    """A start that was asked for STARTED_AGO_MS ago and took READY_AFTER_MS, on a part of two devices."""
    began = now_ms() - STARTED_AGO_MS
    if session.get(Node, "n0") is None:
        session.add(Node(name="n0", address="127.0.0.1", link_bps=1, port_first=1, port_last=2))
        session.flush()
        session.add_all(Device(node_name="n0", idx=idx, kind="cuda", memory_bytes=MEMORY) for idx in range(2))
    start = ColdStart(id=new_id("cst"), model_id=model.id, cause=cause, plan={}, requested_at_ms=began)
    start.ready_at_ms = began + READY_AFTER_MS if ready else None
    start.failed_at_ms = None if ready else began + READY_AFTER_MS
    session.add(start)
    session.flush()
    stopped = stopped_after_ms if ready else READY_AFTER_MS
    group = Group(
        id=new_id("grp"), model_id=model.id, cold_start_id=start.id, state="standalone", plan={}, api_key="k",
        deadline_ms=began, created_at_ms=began, ready_at_ms=start.ready_at_ms,
        stopped_at_ms=None if stopped is None else began + stopped,
    )  # fmt: skip
    group.stages = [
        Stage(
            id=new_id("stg"), rank=rank, node_name="n0", device_idx=rank, first_layer=0, layer_count=1, full=False,
            reserved_bytes=reserved, port=1,
        )
        for rank, reserved in enumerate(RESERVED)
    ]  # fmt: skip
    session.add(group)
    session.flush()
    open_cost(session, group, model)
    session.flush()
    return group


def waiter(group: Group, tenant: Tenant, model: Model, price: Price, **changes: Any) -> dict[str, Any]:
    """The usage event of a request that came a second after the start was asked for, and waited for it."""
    began = group.created_at_ms + 1_000
    times = {"started_at_ms": began, "held_ms": 3_100, "first_token_at_ms": began + 3_200, "ended_at_ms": began + 5_100}
    names = {"group_id": group.id, "cold_start_id": group.cold_start_id}
    return usage_event(tenant, model, price, **{**names, **times, **changes})
