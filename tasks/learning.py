"""Learns from cold starts that are over: what each has taken, and what such starts take, for the next predictions.

Everything is in SQL, so it outlives the controller. A start that failed teaches nothing; one that went oddly is
outvoted (orchestrator/calibration.py).
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from orchestrator.calibration import WINDOW, Marks, Observation, StageMarks, error_permille, fetch_bps, learn, observe
from orchestrator.groups import Cause
from orchestrator.types import Plan, Profile
from registry.models import Calibration, ColdStart, ColdStartEvent, Device, Group, Model, Node, Stage, StartObservation
from tasks.learnt import ALL_MODELS
from tasks.spec import planned_kind
from tasks.tracing import tell

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SETTLED_MS = 60_000
"""How long after it was ready a start's first token, and its last report, may still come."""
AT_ONCE = 20
"""Starts a look: more wait for the next one."""
SPEED = frozenset({"tpot_ms", "tpot_batch_us", "prefill_ms"})
"""Fields of a profile that usage tells, and starts do not."""
_ALONE = [Cause.DEMAND.value, Cause.WARM.value, Cause.MIN_REPLICAS.value, Cause.PREWARM.value]
"""Causes of starts that are like those to be predicted; a consolidation starts beside its own pipeline, unhurried."""

log = structlog.get_logger(__name__)


def study(session: Session, now_ms: int, spans: "TracerProvider | None" = None) -> int:
    """Study the oldest starts that are over and were not studied yet; how many. Each is told to `spans`, if any."""
    over = or_(
        ColdStart.failed_at_ms.is_not(None),
        ColdStart.ready_at_ms < now_ms - SETTLED_MS,
        and_(ColdStart.ready_at_ms.is_not(None), ColdStart.first_token_at_ms.is_not(None)),
    )
    starts = session.scalars(
        select(ColdStart)
        .where(ColdStart.studied_at_ms.is_(None), over)
        .order_by(ColdStart.requested_at_ms)
        .limit(AT_ONCE)
    ).all()
    touched: set[tuple[str, str]] = set()
    for start in starts:
        start.studied_at_ms = now_ms
        if spans is not None:
            tell(spans, session, start)
        if start.ready_at_ms is None or start.cause not in _ALONE:
            continue
        try:
            plan = Plan.from_json(start.plan)
        except ValueError as error:
            log.warning("a start of another version teaches nothing", cold_start=start.id, error=str(error))
            continue
        touched |= {(kind, start.model_id) for kind in _note(session, start, plan)}
    # All models together first ("" sorts so): each by itself goes by what they agree on.
    for kind, model_id in sorted(touched | {(kind, ALL_MODELS) for kind, _ in touched}):
        _calibrate(session, kind, model_id, now_ms)
    return len(starts)


def _note(session: Session, start: ColdStart, plan: Plan) -> list[str]:
    """Write what one start has taken, on each kind of device; the kinds."""
    predicted_ms = plan.predicted_ttft_ms - plan.waited_ms
    real_ms = None if start.first_token_at_ms is None else start.first_token_at_ms - start.requested_at_ms
    marks = _marks(session, start)
    stages = _stages(session, start)
    for stage, _ in stages:
        _note_fetch(session, stage, marks.get(stage.id, {}))
    seen = [StageMarks(kind, marks.get(stage.id, {})) for stage, kind in stages]
    found = [
        one
        for kind in dict.fromkeys(stage.kind for stage in seen)
        for one in observe(seen, plan.w, real_ms, _profile(session, kind, start.model))
        if one[0] == kind
    ]
    for kind, observation in found:
        session.add(
            StartObservation(
                cold_start_id=start.id,
                kind=kind,
                model_id=start.model_id,
                at_ms=start.requested_at_ms,
                observation=observation.to_json(),
                predicted_ms=predicted_ms,
                real_ms=real_ms,
            )
        )
    session.flush()
    return [kind for kind, _ in found]


def _profile(session: Session, kind: str, model: Model) -> Profile:
    """What the model's prompts take there, as its starts are predicted with it."""
    own = session.get(Calibration, (kind, model.id))
    return Profile.from_json({**model.profile, **(own.profile if own else {})})


def _note_fetch(session: Session, stage: Stage, marks: Marks) -> None:
    rate = fetch_bps(marks, stage.bytes_to_fetch)
    if rate is not None:
        node = session.get_one(Node, stage.node_name)
        node.fetch_bps = [*(node.fetch_bps or ()), rate][-WINDOW:]


def _stages(session: Session, start: ColdStart) -> list[tuple[Stage, str]]:
    """Its stages, each with the kind of its device."""
    rows = session.execute(
        select(Stage, Device.kind, Device.name)
        .join(Group, Group.id == Stage.group_id)
        .join(Device, and_(Device.node_name == Stage.node_name, Device.idx == Stage.device_idx))
        .where(Group.cold_start_id == start.id)
        .order_by(Stage.rank)
    )
    return [(stage, planned_kind(kind, name)) for stage, kind, name in rows]


def _marks(session: Session, start: ColdStart) -> Mapping[str, Marks]:
    marks: dict[str, dict[str, int]] = defaultdict(dict)
    for event in session.scalars(select(ColdStartEvent).where(ColdStartEvent.cold_start_id == start.id)):
        marks[event.stage_id][event.kind] = event.at_ms
    return marks


def _calibrate(session: Session, kind: str, model_id: str, now_ms: int) -> None:
    """Write what the newest starts agree on, of one model or of all."""
    query = select(StartObservation).where(StartObservation.kind == kind)
    if model_id != ALL_MODELS:
        query = query.where(StartObservation.model_id == model_id)
    newest = session.scalars(query.order_by(StartObservation.at_ms.desc()).limit(WINDOW)).all()[::-1]
    model = None if model_id == ALL_MODELS else session.get_one(Model, model_id)
    seen = [(one.model_id, Observation.from_json(one.observation)) for one in newest]
    learnt = learn(seen, _per_stage_ms(session, kind, model))
    told = [(one.predicted_ms, one.real_ms) for one in newest]
    row = session.get(Calibration, (kind, model_id)) or Calibration(kind=kind, model_id=model_id, updated_at_ms=0)
    # What usage has taught stays (tasks/speed.py).
    speed = {name: value for name, value in (row.profile or {}).items() if name in SPEED}
    row.profile, row.starts = speed | learnt, len(newest)
    row.error_permille = error_permille((p, r) for p, r in told if p is not None and r is not None)
    # Never the same twice, for it is the version by which others notice.
    row.updated_at_ms = max(now_ms, row.updated_at_ms + 1)
    session.add(row)
    log.info("learnt from cold starts", kind=kind, model=model.name if model else "all", **learnt)


def _per_stage_ms(session: Session, kind: str, model: Model | None) -> int:
    """What each further stage is taken to add while a model's starts all had equally many: as for the other models."""
    if model is None:
        return 0
    everyone = session.get(Calibration, (kind, ALL_MODELS))
    fields = {**(everyone.profile if everyone else {}), **model.profile}
    return Profile.from_json(fields).per_stage_floor_ms
