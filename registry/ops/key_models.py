"""Which models a key may use: keys name models, so a name that changes or goes must change or go there too.

A name left behind would be refused after a rename, and after a delete would permit the next model of that name.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.models import ApiKey
from registry.ops import audit


def rename(session: Session, actor: str, old: str, new: str) -> None:
    """Every key that may use `old` may use `new` instead. In the transaction of the model's own change."""
    _replace(session, actor, old, [new], "model.update")


def remove(session: Session, actor: str, name: str) -> None:
    """No key may use `name` any more. A key with no model left permits nothing."""
    _replace(session, actor, name, [], "model.delete")


def _replace(session: Session, actor: str, old: str, new: list[str], because: str) -> None:
    # Names lie in JSON, which the two databases search differently; keys are thousands at most, and this is rare.
    for key in session.scalars(select(ApiKey).order_by(ApiKey.id).with_for_update()):
        if old in key.models:
            key.models = sorted({*(name for name in key.models if name != old), *new})
            audit.record(session, actor, "key.models", key.id, models=key.models, because=because)
    session.flush()
