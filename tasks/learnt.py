"""What cold starts have taken, as tasks/learning.py has written it, for the planner's view of a model."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.types import KindProfile, Profile
from registry.models import Calibration, Model

ALL_MODELS = ""
"""In place of a model's id: what holds for all models together."""
Version = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class Learnt:
    """`fields` of a Profile by kind of device and model id or ALL_MODELS; `version` is another one when they are."""

    version: Version
    fields: Mapping[tuple[str, str], Mapping[str, int]]

    def profiles(self, model: Model) -> tuple[KindProfile, ...]:
        """One for each kind of device on which something was learnt.

        What the model's own starts have taken goes before what a person has set, and that before what other models'
        starts have taken.
        """
        kinds = sorted({kind for kind, model_id in self.fields if model_id in (model.id, ALL_MODELS)})
        return tuple(KindProfile(kind, Profile.from_json(self._on(kind, model))) for kind in kinds)

    def _on(self, kind: str, model: Model) -> dict[str, int]:
        everyone, own = self.fields.get((kind, ALL_MODELS), {}), self.fields.get((kind, model.id), {})
        return {**everyone, **model.profile, **own}


NOTHING = Learnt((0, None), {})


def learnt_version(session: Session) -> Version:
    """Another one whenever something was learnt."""
    count, latest_ms = session.execute(select(func.count(), func.max(Calibration.updated_at_ms))).one()
    return count, latest_ms


def read_learnt(session: Session) -> Learnt:
    """All that was learnt so far."""
    version = learnt_version(session)
    rows = session.scalars(select(Calibration))
    return Learnt(version, {(row.kind, row.model_id): row.profile for row in rows})
