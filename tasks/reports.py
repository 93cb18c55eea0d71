"""What a node reports, written to SQL: inventory, its stages' states, and their timed steps as cold-start events."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from orchestrator.groups import StageState
from registry.models import ColdStartEvent, Group, Node, Outbox, Stage
from registry.ops.nodes import upsert_from_report
from tasks.apply import node_effect
from tasks.outbox import stop_under_way

UNKNOWN_GROUP_VERSION = 1 << 40
"""Outranks every version that a group can have reached: for groups that SQL does not know."""


def store_report(session: Session, report: Mapping[str, Any], now_ms: int) -> bool:
    """Write a node's full state; whether anything may have to be decided now.

    Reports may come twice or out of order; an older one is dropped.

    A node that fetches reports every half second how far it is: bytes and tensors that have landed, and times, are
    stored, and the clock's next tick is soon enough for what they change.
    """
    name = report["node"]
    known = session.get(Node, name)
    same_boot = known is not None and known.boot_id == report["boot_id"]
    if known is not None and same_boot and report["seq"] < known.report_seq:
        return False
    news = known is None or not same_boot or _offers(known.report) != _offers(report)
    upsert_from_report(session, dict(report), now_ms)
    reported = {stage["stage_id"]: stage for stage in report["stages"]}
    rows = session.scalars(
        select(Stage)
        .where(Stage.node_name == name)
        .options(selectinload(Stage.group))
        .where(Stage.id.in_(reported) | Stage.state.not_in([StageState.GONE, StageState.FAILED]))
    ).all()
    for row in rows:
        said = reported.pop(row.id, None)
        if said is not None:
            news |= _update(session, row, said)
        elif row.state != StageState.PLANNED:
            # noded adopts whatever an earlier one has left: what it does not know went with the machine, or was swept.
            row.state, row.reason = StageState.GONE.value, row.reason or "ended when its node was stopped"
            news = True
    for group_id in sorted(
        {stage["group_id"] for stage in reported.values() if stage["state"] not in ("gone", "failed")}
    ):
        news |= _stop_unknown(session, name, group_id, now_ms)
    return news


def _offers(report: Mapping[str, Any]) -> list[Any]:
    """What a node has to plan on, but for what its memory holds of any model."""
    return [
        *(report.get(key) for key in ("devices", "address", "ports", "link_bps")),
        report.get("warm", {}).get("ready"),
    ]


def note_stopped(session: Session, stop: Outbox) -> bool:
    """A node has taken a group's stop: what it had not begun of the group, it never will. Whether there was any."""
    rows = session.scalars(
        select(Stage).where(
            Stage.group_id == stop.group_id,
            Stage.node_name == stop.queue.removeprefix("node."),
            Stage.state == StageState.PLANNED.value,
        )
    ).all()
    for row in rows:
        row.state, row.reason = StageState.GONE.value, "stopped before it began"
    return bool(rows)


def _update(session: Session, row: Stage, said: Mapping[str, Any]) -> bool:
    """Write what a stage's node says of it; whether it is now in another state."""
    before = (row.state, row.reason, row.verified, row.group.probe)
    row.state = StageState(said["state"]).value
    row.reason = said["reason"]
    if said["version"] > row.group.version:
        # SQL was restored from a backup, and the node would refuse as stale whatever is sent at the group's version.
        row.group.version = said["version"] + 1
    row.pids = list(said["pids"])
    row.bytes_total = said["bytes_total"]
    if said["bytes_total"]:
        # Until the node has taken the prefetch it knows of no bytes at all; the plan's number keeps the link reserved.
        row.bytes_to_fetch = said.get("bytes_to_fetch", said["bytes_total"])
    row.bytes_fetched = said["bytes_fetched"]
    row.verified = bool(said["verified"])
    # One without "ok" was asked for, and not answered, when controllers still asked.
    if said.get("probe") is not None and "ok" not in (row.group.probe or {}):
        row.group.probe = {"ok": bool(said["probe"]["ok"]), "error": said["probe"].get("error")}
    if row.group.cold_start_id is not None:
        _record_marks(session, row, row.group, said["marks"])
    return (row.state, row.reason, row.verified, row.group.probe) != before


def _record_marks(session: Session, row: Stage, group: Group, marks: Mapping[str, int | None]) -> None:
    there = set(
        session.scalars(
            select(ColdStartEvent.kind).where(
                ColdStartEvent.cold_start_id == group.cold_start_id, ColdStartEvent.stage_id == row.id
            )
        )
    )
    for kind, at_ms in marks.items():
        if at_ms is not None and kind not in there:
            session.add(
                ColdStartEvent(
                    cold_start_id=group.cold_start_id,
                    stage_id=row.id,
                    kind=kind,
                    at_ms=at_ms,
                    detail={"rank": row.rank, "node": row.node_name},
                )
            )


def _stop_unknown(session: Session, node: str, group_id: str, now_ms: int) -> bool:
    """A node runs a group that SQL has never heard of (a database restored from a backup): it is ended. Whether a stop
    had to be added."""
    under_way = select(Outbox.id).where(Outbox.group_id == group_id, stop_under_way(now_ms)).limit(1)
    if session.scalar(under_way) is not None:
        return False
    effect = {"v": 1, "kind": "stop", "group_id": group_id, "version": UNKNOWN_GROUP_VERSION, "grace_s": 5}
    session.add(node_effect(node, effect, now_ms))
    return True
