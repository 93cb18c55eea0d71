"""What becomes of requests while the model that they ask for is cold."""

from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from registry.models import ColdPolicy, Model, Tenant


class PolicyDocument(TypedDict):
    """`model`, `tenant` and `to` are names; `tenant` is null for all that have no policy of their own.

    `when_cold`: wait, reject, or fallback to the provider's model `to` after `after_s` seconds in line.
    """

    model: str
    tenant: str | None
    when_cold: str
    to: str | None
    after_s: int


def policy_document(session: Session, row: ColdPolicy) -> PolicyDocument:
    """A policy."""
    return {
        "model": session.get_one(Model, row.model_id).name,
        "tenant": None if row.tenant_id is None else session.get_one(Tenant, row.tenant_id).name,
        "when_cold": row.mode,
        "to": None if row.fallback_model_id is None else session.get_one(Model, row.fallback_model_id).name,
        "after_s": row.after_s,
    }
