"""What becomes of requests for a model that sleeps: of one tenant's, or of all others'."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.models import ColdPolicy
from registry.ops import audit, checks, models, tenants

MODES = ("wait", "fallback", "reject")
MOST_S = 600


def set_policy(
    session: Session,
    actor: str,
    model_id: str,
    *,
    mode: str,
    tenant_id: str | None = None,
    after_s: int = 0,
    fallback_model_id: str | None = None,
) -> ColdPolicy:
    """Set or replace the policy of a model, for one tenant or (None) for all that have none of their own.

    `fallback` asks the model of a provider after `after_s` seconds in line; keys need no permission for that one: who
    sets the policy has given it. Models that make vectors have none: those of two models have nothing in common.
    """
    model = models.get_model(session, model_id)
    models.refuse_hosted(model)
    if tenant_id is not None:
        tenants.get_tenant(session, tenant_id)
    if mode not in MODES:
        raise InvalidError(f"mode must be one of: {', '.join(MODES)}", "mode")
    checks.integer("after_s", after_s, high=MOST_S)
    if (mode == "fallback") != (fallback_model_id is not None):
        raise InvalidError("a fallback names the provider's model to ask, and no other mode does", "fallback_model_id")
    if mode != "fallback" and after_s:
        raise InvalidError("after_s is of a fallback only", "after_s")
    if fallback_model_id is not None:
        fallback = models.get_model(session, fallback_model_id)
        if fallback.provider is None:
            raise InvalidError("only a model that a provider serves can be a fallback", "fallback_model_id")
        if fallback.settings.get("embedding") or model.settings.get("embedding"):
            raise InvalidError("vectors of two models cannot be compared: no fallback for these", "fallback_model_id")
    row = _find(session, model_id, tenant_id) or ColdPolicy(model_id=model_id, tenant_id=tenant_id)
    try:
        with session.begin_nested():
            row.mode, row.after_s, row.fallback_model_id = mode, after_s, fallback_model_id
            session.add(row)
    except IntegrityError:  # another transaction set one since we looked
        raise ConflictError("this policy was changed at the same moment; try again", "model_id") from None
    detail = {"tenant_id": tenant_id, "mode": mode, "after_s": after_s, "fallback_model_id": fallback_model_id}
    audit.record(session, actor, "policy.set", model_id, **detail)
    return row


def remove_policy(session: Session, actor: str, model_id: str, *, tenant_id: str | None = None) -> None:
    """Take a policy away: the default of all tenants holds again, or waiting. Raises NotFoundError."""
    session.delete(get_policy(session, model_id, tenant_id))
    session.flush()
    audit.record(session, actor, "policy.remove", model_id, tenant_id=tenant_id)


def get_policy(session: Session, model_id: str, tenant_id: str | None) -> ColdPolicy:
    """The policy of a model for this tenant, or (None) for all others. Raises NotFoundError."""
    row = _find(session, model_id, tenant_id)
    if row is None:
        raise NotFoundError("there is no such policy", "model_id")
    return row


def list_policies(session: Session, model_id: str | None = None, tenant_id: str | None = None) -> Sequence[ColdPolicy]:
    """All policies, or those of a model, or those that are a tenant's own."""
    query = select(ColdPolicy).order_by(ColdPolicy.model_id, ColdPolicy.id)
    if model_id is not None:
        query = query.where(ColdPolicy.model_id == model_id)
    if tenant_id is not None:
        query = query.where(ColdPolicy.tenant_id == tenant_id)
    return session.scalars(query).all()


def _find(session: Session, model_id: str, tenant_id: str | None) -> ColdPolicy | None:
    query = select(ColdPolicy).where(ColdPolicy.model_id == model_id)
    same = ColdPolicy.tenant_id.is_(None) if tenant_id is None else ColdPolicy.tenant_id == tenant_id
    return session.scalar(query.where(same))
