"""Cold starts: their list, and one as the rows of a waterfall."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from registry.errors import NotFoundError
from registry.models import ColdStart, ColdStartEvent, Group, Stage

# A stage's steps, as (name, event kinds that may begin it, event kinds that may end it), in the order they are drawn.
# Steps overlap by design: that is the point of the waterfall.
STEPS: tuple[tuple[str, str, str], ...] = (
    ("queued", "queued", "prefetch_start"),
    ("prefetch", "prefetch_start", "prefetch_end"),
    ("runtime", "fork", "runtime"),
    ("load", "load_start", "load_end"),
    ("start", "runtime", "up"),
)


@dataclass(frozen=True)
class WaterfallRow:
    """A bar: milliseconds from the cold start's request. `end_ms` is None for a step that has not ended, and equals
    `start_ms` for a moment (a tick, not a bar). `stage_id` is "" for the group as a whole."""

    stage_id: str
    label: str
    step: str
    start_ms: int
    end_ms: int | None


@dataclass(frozen=True)
class Waterfall:
    """A cold start with its rows: the group's, then each stage's by rank."""

    cold_start: ColdStart
    rows: list[WaterfallRow]


def list_cold_starts(
    session: Session, *, model_id: str | None = None, limit: int = 50, offset: int = 0
) -> Sequence[ColdStart]:
    """A page of cold starts, the latest first, each with its model."""
    query = select(ColdStart).options(joinedload(ColdStart.model)).order_by(ColdStart.requested_at_ms.desc())
    if model_id is not None:
        query = query.where(ColdStart.model_id == model_id)
    return session.scalars(query.limit(limit).offset(max(0, offset))).all()


def waterfall(session: Session, cold_start_id: str) -> Waterfall:
    """One cold start as a waterfall, drawn from SQL alone. Raises NotFoundError."""
    cold_start = session.get(ColdStart, cold_start_id)
    if cold_start is None:
        raise NotFoundError(f"there is no cold start {cold_start_id}", "cold_start_id")
    events = session.scalars(select(ColdStartEvent).where(ColdStartEvent.cold_start_id == cold_start_id)).all()
    stages = session.scalars(
        select(Stage).join(Group).where(Group.cold_start_id == cold_start_id).order_by(Group.created_at_ms, Stage.rank)
    ).all()
    labels = {stage.id: f"rank {stage.rank} on {stage.node_name}" for stage in stages}
    order = {stage_id: position for position, stage_id in enumerate(["", *labels])}
    by_stage: dict[str, dict[str, int]] = {}
    for event in events:
        by_stage.setdefault(event.stage_id, {})[event.kind] = event.at_ms - cold_start.requested_at_ms
    rows: list[WaterfallRow] = []
    for stage_id in sorted(by_stage, key=lambda one: (order.get(one, len(order)), one)):
        rows += _rows(stage_id, labels.get(stage_id, stage_id or "group"), by_stage[stage_id])
    return Waterfall(cold_start, rows)


def _rows(stage_id: str, label: str, marks: dict[str, int]) -> list[WaterfallRow]:
    rows, used = [], set[str]()
    for step, begin, end in STEPS:
        if begin in marks:
            rows.append(WaterfallRow(stage_id, label, step, marks[begin], marks.get(end)))
            used |= {begin, end}
    moments = sorted((at_ms, kind) for kind, at_ms in marks.items() if kind not in used)
    return rows + [WaterfallRow(stage_id, label, kind, at_ms, at_ms) for at_ms, kind in moments]
