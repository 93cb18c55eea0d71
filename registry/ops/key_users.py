"""Users: names of the client's own on keys (`ApiKey.user_id`). Each is there for as long as a key with its name has not
ended."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from registry.ids import now_ms
from registry.models import ApiKey, Usage
from registry.ops.keys import not_ended


@dataclass(frozen=True)
class KeyUser:
    """A user: how many keys it has, whose tenants pay for them (ids), and what all keys of its name have ever spent,
    ended ones too, in nano-dollars."""

    user_id: str
    keys: int
    tenant_ids: Sequence[str]
    spent_nusd: int


@dataclass(frozen=True)
class UserFilter:
    """Which users: with a key of a tenant, and of certain names. None does not restrict."""

    tenant_id: str | None = None
    user_ids: Collection[str] | None = None


def list_users(session: Session, wanted: UserFilter, *, limit: int, offset: int = 0) -> list[KeyUser]:
    """A page of users, by name."""
    at_ms = now_ms()
    names = select(ApiKey.user_id).where(*_restrict(wanted, at_ms)).group_by(ApiKey.user_id).order_by(ApiKey.user_id)
    page = select(names.limit(limit).offset(offset).subquery().c.user_id)
    counts = select(ApiKey.user_id, ApiKey.tenant_id, func.count()).where(ApiKey.user_id.in_(page), not_ended(at_ms))
    held: dict[str, dict[str, int]] = {}
    for name, tenant_id, count in session.execute(
        counts.group_by(ApiKey.user_id, ApiKey.tenant_id).order_by(ApiKey.user_id)
    ):
        held.setdefault(str(name), {})[tenant_id] = count
    costs = select(ApiKey.user_id, func.sum(Usage.cost_nusd)).join(Usage, Usage.key_id == ApiKey.id)
    rows = session.execute(costs.where(ApiKey.user_id.in_(held)).group_by(ApiKey.user_id))
    spent = {name: int(cost) for name, cost in rows}
    return [KeyUser(name, sum(of.values()), sorted(of), spent.get(name, 0)) for name, of in held.items()]


def count_users(session: Session, wanted: UserFilter) -> int:
    """How many users there are."""
    query = select(func.count(ApiKey.user_id.distinct())).where(*_restrict(wanted, now_ms()))
    return int(session.scalar(query) or 0)


def _restrict(wanted: UserFilter, at_ms: int) -> list[ColumnElement[bool]]:
    conditions = [ApiKey.user_id.is_not(None), not_ended(at_ms)]
    if wanted.tenant_id is not None:
        conditions.append(ApiKey.tenant_id == wanted.tenant_id)
    if wanted.user_ids is not None:
        conditions.append(ApiKey.user_id.in_(wanted.user_ids))
    return conditions
