"""A small busy installation for pages to show: two nodes, three models, a real plan, cold starts, a month of usage."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session
from support.registry_rows import add_model, current_price, usage_event

from orchestrator.plan import plan
from orchestrator.types import (
    ClusterState,
    DeviceState,
    ModelSpec,
    NodeState,
    Plan,
    PlanRequest,
    Profile,
)
from registry.ids import new_id
from registry.models import (
    ColdStart,
    ColdStartEvent,
    ColdStartShare,
    Group,
    GroupCost,
    LedgerEntry,
    Model,
    Stage,
    Tenant,
)
from registry.ops import aliases, keys, ledger, models, money, nodes, tenants

MB = 1_000_000
GB = 1_000_000_000
DAY_MS = 86_400_000
MARKS = (
    *("queued", "prefetch_start", "first_byte", "fork", "runtime"),
    *("load_start", "prefetch_end", "up", "load_end", "ready"),
)
SECONDS = ((0.05, 0.1, 0.2, 0.15, 1.9, 2.0, 3.1, 2.6, 3.9, 3.9), (0.06, 0.1, 0.25, 0.2, 2.1, 2.2, 3.4, 2.8, 4.1, 4.1))


@dataclass(frozen=True)
class Samples:
    """Ids of what was made."""

    tenant: Tenant
    model: Model
    cold_start: ColdStart
    key_id: str


def add_samples(session: Session, now_ms: int) -> Samples:
    """Fills an empty database."""
    for name, index in (("node-a", 0), ("node-b", 1)):
        nodes.upsert_from_report(session, _report(name, index), now_ms)
    model = add_model(session, "smollm2-135m-instruct", slo_ttft_ms=6_000)
    add_model(session, "qwen3-8b", slo_ttft_ms=8_000, keep_alive_s=900)
    models.set_enabled(session, "owner@example.org", add_model(session, "old-llama").id, False)
    aliases.add_alias(session, "owner@example.org", model.id, "small")
    tenant = tenants.create_tenant(session, "owner@example.org", name="Acme Robotics", rpm=600, parallel=16)
    tenants.create_tenant(session, "owner@example.org", name="Night Shift")
    money.top_up(session, "owner@example.org", tenant.id, 250 * GB, "Invoice 2026-117")
    key, _plaintext = keys.create_key(session, "owner@example.org", "pepper", tenant_id=tenant.id, name="website chat")
    _add_usage(session, tenant, model, now_ms)
    start = _add_running(session, model, now_ms)
    _add_failed(session, model, start, now_ms - 3_600_000)
    return Samples(tenant, model, start, key.id)


def add_start_cost(session: Session, samples: Samples, at_ms: int) -> None:
    """What the ledger notes of a start that three requests of one tenant have waited for, which pays for it."""
    start = samples.cold_start
    group = session.scalars(select(Group).where(Group.cold_start_id == start.id)).one()
    session.add(
        GroupCost(
            group_id=group.id, cold_start_id=start.id, model_id=start.model_id, price_id=None, chargeable=True,
            began_at_ms=start.requested_at_ms, startup_gpu_us=9_000_000, startup_nusd=7_200_000, waited=3,
        )
    )  # fmt: skip
    whose = {"tenant_id": samples.tenant.id, "cold_start_id": start.id}
    session.add(ColdStartShare(**whose, requests=3, gpu_us=9_000_000, cost_nusd=7_200_000, charged=True, at_ms=at_ms))
    session.add(LedgerEntry(**whose, kind="settle", amount_nusd=-7_200_000, at_ms=at_ms))


def sample_plan(model_name: str) -> Plan:
    """What the planner says of a model that one link alone would fetch too slowly."""
    device = {"kind": "cpu", "memory_bytes": 4 * GB, "free_bytes": 4 * GB}
    names = ("node-a", "node-b")
    cluster = ClusterState(
        nodes=tuple(NodeState(n, 50 * MB, (DeviceState(node=n, index=0, **device),)) for n in names),  # type: ignore[arg-type]
        now_ms=0,
    )
    spec = ModelSpec(
        name=model_name,
        layer_bytes=(7 * MB,) * 30,
        embed_bytes=57 * MB,
        head_bytes=MB,
        tied=True,
        kv_bytes_per_token=23_040,
        kv_reserve_bytes=200 * MB,
        slo_ttft_ms=6_000,
        slo_tpot_ms=None,
        profile=Profile(tpot_ms=40, prefill_ms=120, runtime_floor_ms=1_900, tail_ms=700),
        context_bytes=100 * MB,
    )
    outcome = plan(PlanRequest(model=spec), cluster)
    assert isinstance(outcome, Plan)
    return outcome


def _report(name: str, index: int) -> dict[str, object]:
    return {
        "v": 1,
        "node": name,
        "boot_id": f"boot-{index}",
        "seq": 7,
        "devices": [{"index": 0, "kind": "cpu", "name": "AMD EPYC, core 0", "memory_bytes": 4 * GB, "cores": [index]}],
        "address": f"10.0.0.{index + 1}",
        "ports": [31000, 31099],
        "link_bps": 50 * MB,
        "store": {"bytes": 180 * MB, "limit_bytes": 2 * GB, "digests": ["0" * 64] * 137},
        "warm": {"ready": True, "pid": 4242 + index, "engine": "sglang 0.5.23", "memory_bytes": 610_000_000},
        "stages": [],
    }


def _add_running(session: Session, model: Model, now_ms: int) -> ColdStart:
    decided = sample_plan(model.name)
    began = now_ms - 45_000
    start = ColdStart(
        id=new_id("cst"), model_id=model.id, cause="demand", plan=decided.to_json(),
        predicted_ttft_ms=decided.predicted_ttft_ms, requested_at_ms=began,
        ready_at_ms=began + 4_300, first_token_at_ms=began + 4_520,
    )  # fmt: skip
    session.add(start)
    session.flush()
    group = Group(
        id=new_id("grp"), model_id=model.id, cold_start_id=start.id, state="pipeline", plan=decided.to_json(),
        api_key="worker-secret", created_at_ms=began, deadline_ms=began + 60_000, ready_at_ms=began + 4_300,
    )  # fmt: skip
    session.add(group)
    session.flush()
    session.add(ColdStartEvent(cold_start_id=start.id, kind="planned", at_ms=began + 20))
    for planned, seconds in zip(decided.stages, SECONDS, strict=True):
        stage = Stage(
            id=new_id("stg"), group_id=group.id, rank=planned.rank, node_name=planned.node, device_idx=planned.device,
            first_layer=planned.first_layer, layer_count=planned.layer_count, full=planned.full,
            reserved_bytes=planned.reserved_bytes, port=31000, state="ready", verified=True,
            bytes_total=planned.fetch_bytes, bytes_fetched=planned.fetch_bytes,
        )  # fmt: skip
        session.add(stage)
        session.flush()
        for kind, at_s in zip(MARKS, seconds, strict=True):
            at_ms = began + round(at_s * 1000)
            session.add(ColdStartEvent(cold_start_id=start.id, stage_id=stage.id, kind=kind, at_ms=at_ms))
    for kind, at in (("probe", 4_250), ("ready", 4_300), ("first_token", 4_520)):
        session.add(ColdStartEvent(cold_start_id=start.id, kind=kind, at_ms=began + at))
    session.flush()
    return start


def _add_failed(session: Session, model: Model, like: ColdStart, at_ms: int) -> None:
    session.add(
        ColdStart(
            id=new_id("cst"), model_id=model.id, cause="demand", plan=like.plan, predicted_ttft_ms=5_000,
            requested_at_ms=at_ms, failed_at_ms=at_ms + 2_100,
            reason="stage 1 on node-b: tensor model.layers.17.mlp.down_proj.weight does not match its digest",
        )
    )  # fmt: skip
    session.flush()


def _add_usage(session: Session, tenant: Tenant, model: Model, now_ms: int) -> None:
    chance = random.Random(4)
    price = current_price(session, model)
    events = []
    for _ in range(120):
        ended = now_ms - chance.randrange(6 * DAY_MS)
        tokens = chance.randrange(20, 900)
        events.append(
            usage_event(
                tenant, model, price, prompt_tokens=tokens, cached_tokens=tokens // 3,
                completion_tokens=chance.randrange(10, 400), started_at_ms=ended - 4_000, held_ms=0,
                first_token_at_ms=ended - 3_700, ended_at_ms=ended,
            )
        )  # fmt: skip
    ledger.settle(session, events)
