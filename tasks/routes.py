"""Publishes to gateways where requests may go, and how a cold model's start is faring (Redis)."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from orchestrator.control import ControlState, Decision, Wait
from orchestrator.explain import refusal_text
from orchestrator.groups import Cause
from orchestrator.lifecycle import SERVING, GroupState
from registry.models import Group, Model

FAILURES_BEFORE_TOLD = 2
"""A first failed start is tried again silently; from the second on, held requests are told."""


def route_table(session: Session) -> dict[str, list[dict[str, Any]]]:
    """Model name -> routes (docs/interfaces.md, section 3); a standalone worker is preferred to its pipeline."""
    groups = session.scalars(
        select(Group)
        .where(Group.state.in_([state.value for state in SERVING]))
        .options(selectinload(Group.model).defer(Model.manifest))
        .order_by(Group.id)
    )
    table: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for group in groups:
        standalone = group.state == GroupState.STANDALONE
        table[group.model.name].append(
            {
                "group_id": group.id,
                "url": group.url,
                "api_key": group.api_key,
                "state": "standalone" if standalone else "pipeline",
                "cold_start_id": group.cold_start_id,
                "started_at_ms": group.ready_at_ms,
                "prefer": 2 if standalone else 1,
                "capacity": group.model.capacity,
            }
        )
    return table


def publish_routes(redis: Redis, table: Mapping[str, list[dict[str, Any]]], now_ms: int) -> int:
    """Write the table if it differs from what Redis has; the version that holds now.

    Versions are taken from the clock, so they go on rising when Redis has lost everything.
    """
    wanted = _documents(table)
    version = int(redis.get("hyd:routes:version") or 0)
    if version and _is_published(redis, "hyd:routes", wanted):
        return version
    version = max(version + 1, now_ms)
    pipe = redis.pipeline(transaction=True)
    pipe.delete("hyd:routes")
    if wanted:
        pipe.hset("hyd:routes", mapping=wanted)
    pipe.set("hyd:routes:version", version)
    pipe.publish("hyd:routes:changed", version)
    pipe.execute()
    return version


def mark_unrouted(session: Session, version: int) -> bool:
    """Note on each draining group the routes version from which nobody may choose it; whether any was new."""
    groups = session.scalars(
        select(Group).where(Group.state == GroupState.DRAINING.value, Group.drain_version.is_(None))
    ).all()
    for group in groups:
        group.drain_version = version
    return bool(groups)


def cold_starts(session: Session, state: ControlState, decisions: Iterable[Decision]) -> dict[str, dict[str, Any]]:
    """Model name -> `hyd:coldstart` entry, for every model that is starting or wanted and not to be had."""
    entries: dict[str, dict[str, Any]] = {}
    serving = {group.model for group in state.groups if group.state in SERVING}
    for group in state.groups:
        if group.state in (GroupState.PLANNED, GroupState.STARTING) and group.parent_id is None:
            entries[group.model] = {
                "cold_start_id": session.get_one(Group, group.group_id).cold_start_id,
                "state": "starting",
                "eta_ms": group.created_ms + group.plan.predicted_ttft_ms - group.plan.waited_ms,
                "error": None,
                "failed_at_ms": None,
            }
    for decision in decisions:
        # Nobody waits for a model that is only expected.
        if not isinstance(decision, Wait) or decision.model in entries or decision.cause is Cause.PREWARM:
            continue
        model = state.models[decision.model]
        hopeless = decision.retry_at_ms is None
        # Whoever waits for a model that serves gets a place when another request ends.
        told = (hopeless or model.failures >= FAILURES_BEFORE_TOLD) and decision.model not in serving
        entries[decision.model] = {
            "cold_start_id": None,
            "state": "failed" if told else "waiting",
            "eta_ms": decision.eta_ms,
            "error": _why(session, decision, state),
            "failed_at_ms": (state.now_ms if hopeless else model.failed_ms) if told else None,
        }
    return entries


def _why(session: Session, decision: Wait, state: ControlState) -> str:
    if decision.why is not None:
        return refusal_text(decision.why)
    reason = session.scalar(
        select(Group.reason)
        .where(Group.model.has(name=decision.model), Group.state == GroupState.FAILED.value)
        .order_by(Group.created_at_ms.desc())
        .limit(1)
    )
    return reason or "its last start failed"


def publish_cold_starts(redis: Redis, entries: Mapping[str, dict[str, Any]], version: int) -> None:
    """Replace `hyd:coldstart`, waking gateways when anything that they would tell a client has changed."""
    wanted = _documents(entries)
    if _is_published(redis, "hyd:coldstart", wanted):
        return
    pipe = redis.pipeline(transaction=True)
    pipe.delete("hyd:coldstart")
    if wanted:
        pipe.hset("hyd:coldstart", mapping=wanted)
    pipe.publish("hyd:routes:changed", version)
    pipe.execute()


def _documents(table: Mapping[str, Any]) -> dict[Any, Any]:
    return {name: json.dumps(value, sort_keys=True) for name, value in table.items()}


def _is_published(redis: Redis, key: str, wanted: Mapping[Any, Any]) -> bool:
    return redis.hgetall(key) == {name.encode(): value.encode() for name, value in wanted.items()}
