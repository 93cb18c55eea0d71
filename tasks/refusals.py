"""Starts that cannot be planned, as cold starts that failed: where a person looks for a start, its refusal is found."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.control import Wait
from orchestrator.explain import refusal_text
from orchestrator.lifecycle import SERVING
from registry.ids import new_id
from registry.models import ColdStart, Group, Model

WAITED_TOO_LONG_MS = 30_000
"""A refusal that time may mend is a failed start for a request that has waited so long for it."""

EPISODE_MS = 60_000
"""Refused again for the same reason within this: the same failed start, whoever asked."""

STEP_MS = 10_000
"""How far behind `failed_at_ms` may be while a start goes on being refused."""


def note_refusal(session: Session, wait: Wait, now_ms: int) -> None:
    """One failed cold start for each time that a model could not be started, however many passes and requests it has.

    Its `plan` is the refusal itself; `failed_at_ms` is when it was last refused.
    """
    if wait.why is None or (wait.retry_at_ms is not None and wait.waited_ms < WAITED_TOO_LONG_MS):
        return
    model_id = session.scalars(select(Model.id).where(Model.name == wait.model, Model.deleted_at_ms.is_(None))).one()
    serving = [state.value for state in SERVING]
    if session.scalar(select(Group.id).where(Group.model_id == model_id, Group.state.in_(serving)).limit(1)):
        return  # one worker more was wanted; the model serves
    last = session.scalar(
        select(ColdStart).where(ColdStart.model_id == model_id).order_by(ColdStart.requested_at_ms.desc()).limit(1)
    )
    if (
        last is not None
        and last.failed_at_ms is not None
        and last.plan.get("reason") == wait.why.reason
        and now_ms - last.failed_at_ms < EPISODE_MS
    ):
        if now_ms - last.failed_at_ms >= STEP_MS:
            last.failed_at_ms, last.reason = now_ms, refusal_text(wait.why)
        return
    session.add(
        ColdStart(
            id=new_id("cst"),
            model_id=model_id,
            cause=wait.cause.value,
            plan=wait.why.to_json(),
            requested_at_ms=now_ms,
            failed_at_ms=now_ms,
            reason=refusal_text(wait.why),
        )
    )
