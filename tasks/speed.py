"""Learns from real usage how fast models are served: SQL in, calibrations out (orchestrator/speed.py has the sums)."""

from collections import defaultdict
from collections.abc import Iterable

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.speed import Answer, measured
from registry.models import Calibration, Device, ModelUse, Stage, Usage
from tasks.spec import planned_kind

EVERY_MS = 60_000
"""How often one model is looked at, while it is used."""
NEWEST = 128
"""Answers that count, the newest."""

log = structlog.get_logger(__name__)


def study_use(session: Session, now_ms: int) -> bool:
    """Look at the model that was used since it was looked at last, longest ago; whether there was one."""
    use = session.scalars(
        select(ModelUse)
        .where(ModelUse.busy_until_ms > ModelUse.measured_at_ms, ModelUse.measured_at_ms < now_ms - EVERY_MS)
        .order_by(ModelUse.measured_at_ms)
        .limit(1)
    ).first()
    if use is None:
        return False
    use.measured_at_ms = now_ms
    rows = session.scalars(
        select(Usage)
        .where(
            Usage.model_id == use.model_id,
            Usage.outcome == "ok",
            Usage.stream,  # the first token of a whole answer is seen when the last one is
            Usage.first_token_at_ms.is_not(None),
        )
        .order_by(Usage.ended_at_ms.desc())
        .limit(NEWEST)
    ).all()
    kinds = _kinds(session, {row.group_id for row in rows if row.group_id is not None})
    answers: dict[str, list[Answer]] = defaultdict(list)
    for row in rows:
        if row.group_id in kinds and row.first_token_at_ms is not None:
            answers[kinds[row.group_id]].append(
                Answer(
                    row.group_id,
                    row.started_at_ms,
                    row.first_token_at_ms,
                    row.ended_at_ms,
                    row.completion_tokens,
                    waited=row.held_ms > 0,
                )
            )
    for kind, given in answers.items():
        _write(session, kind, use.model_id, measured(given), now_ms)
    return True


def _kinds(session: Session, groups: Iterable[str]) -> dict[str, str]:
    """By group, of those that are one worker on one device: the kind of that. A pipeline's pace is predicted by its
    worker's."""
    alone = select(Stage.group_id).where(Stage.group_id.in_(groups)).group_by(Stage.group_id).having(func.count() == 1)
    rows = session.execute(
        select(Stage.group_id, Device.kind, Device.name)
        .join(Device, (Device.node_name == Stage.node_name) & (Device.idx == Stage.device_idx))
        .where(Stage.group_id.in_(alone))
    )
    return {group: planned_kind(kind, name) for group, kind, name in rows}


def _write(session: Session, kind: str, model_id: str, found: dict[str, int], now_ms: int) -> None:
    row = session.get(Calibration, (kind, model_id))
    if not found or (row is not None and row.profile.items() >= found.items()):
        return
    if row is None:
        row = Calibration(kind=kind, model_id=model_id, profile={}, starts=0, updated_at_ms=0)
        session.add(row)
    row.profile = row.profile | found
    row.updated_at_ms = max(now_ms, row.updated_at_ms + 1)
    log.info("learnt from usage", kind=kind, model=model_id, **found)
