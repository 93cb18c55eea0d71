"""What cold starts have taught, for people to read (tasks/learning.py writes it)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.models import Calibration, Model


@dataclass(frozen=True)
class Learnt:
    """On one kind of device; `model` is a name, None: all models. `fields`: ms, as in orchestrator.types.Profile."""

    kind: str
    model: str | None
    fields: dict[str, Any]
    starts: int
    error_permille: int | None


def list_learnt(session: Session, model_id: str | None = None) -> Sequence[Learnt]:
    """By kind of device, all models together first, then each by name; of `model_id` alone if given."""
    query = select(Calibration, Model.name).outerjoin(Model, Model.id == Calibration.model_id)
    query = query.where(Model.deleted_at_ms.is_(None))
    if model_id is not None:
        query = query.where(Calibration.model_id == model_id)
    found = [
        Learnt(row.kind, name, row.profile, row.starts, row.error_permille) for row, name in session.execute(query)
    ]
    return sorted(found, key=lambda one: (one.kind, one.model is not None, one.model or ""))
