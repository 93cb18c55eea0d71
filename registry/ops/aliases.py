"""Aliases: other names for a model, or one name whose requests several models share by weight."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.models import Alias, AliasTarget
from registry.ops import audit, checks
from registry.ops import models as registered

MAX_WEIGHT = 1000
MAX_TARGETS = 16


def add_alias(session: Session, actor: str, model_id: str, alias: str) -> Alias:
    """Another name for a model. Raises ConflictError when the name is taken."""
    model = registered.get_model(session, model_id)
    return _add(session, actor, checks.model_name("alias", alias), [AliasTarget(model_id=model.id, weight=1)])


def set_split(session: Session, actor: str, alias: str, weights: Mapping[str, int]) -> Alias:
    """Have the models named in `weights` share the requests for `alias`, which may be new, in proportion to them.

    A weight is 1 to 1000; a model that is not named gets nothing any more. Raises InvalidError, ConflictError when the
    name is a model's, and NotFoundError where no model has the name (an alias is none).
    """
    checks.model_name("alias", alias)
    if not 1 <= len(weights) <= MAX_TARGETS:
        raise InvalidError(f"name 1 to {MAX_TARGETS} models that share the alias", "weights")
    targets = [
        AliasTarget(
            model_id=registered.find_model(session, name).id,
            weight=checks.integer(f"the weight of {name}", weight, low=1, high=MAX_WEIGHT),
        )
        for name, weight in weights.items()
    ]
    # Two changes of one alias follow each other: else both would add to what the first had left.
    row = session.get(Alias, alias, with_for_update=True, populate_existing=True)
    if row is None:
        return _add(session, actor, alias, targets)
    row.targets.clear()
    session.flush()  # out before in: a model that stays has the same key
    row.targets.extend(targets)
    session.flush()
    _record(session, actor, "alias.split", row)
    return row


def remove_alias(session: Session, actor: str, alias: str) -> None:
    """Give the name up. Raises NotFoundError."""
    row = get_alias(session, alias)
    _record(session, actor, "alias.remove", row)
    session.delete(row)
    session.flush()


def get_alias(session: Session, alias: str) -> Alias:
    """The alias. Raises NotFoundError."""
    row = session.get(Alias, alias)
    if row is None:
        raise NotFoundError(f"there is no alias {alias!r}", "alias")
    return row


def list_aliases(session: Session, model_id: str) -> Sequence[Alias]:
    """The aliases of a model, by name."""
    query = select(Alias).join(AliasTarget).where(AliasTarget.model_id == model_id).order_by(Alias.name)
    return session.scalars(query).all()


def weights(alias: Alias) -> dict[str, int]:
    """The weight of each model behind an alias, by the model's name."""
    return {target.model.name: target.weight for target in sorted(alias.targets, key=lambda t: t.model.name)}


def _add(session: Session, actor: str, alias: str, targets: list[AliasTarget]) -> Alias:
    registered.refuse_taken(session, alias, field="alias")
    row = Alias(name=alias, targets=targets)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # another transaction took it since we looked
        raise ConflictError(
            f"{alias!r} is an alias already; choose another name or remove the alias", "alias"
        ) from None
    _record(session, actor, "alias.add", row)
    return row


def _record(session: Session, actor: str, action: str, row: Alias) -> None:
    for target in row.targets:
        audit.record(session, actor, action, target.model_id, alias=row.name, weight=target.weight)
