"""What becomes of requests for a model that sleeps. It sets what tenants pay: for owners."""

from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.management import Text, api
from admin_ui.api.models import find_model
from admin_ui.api.money import TenantQuery
from admin_ui.api.operation import Body, change
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.documents.cold_policies import PolicyDocument, policy_document
from registry.ops import cold_policies, tenants
from registry.ops.cold_policies import MOST_S

TAG = "policies"


class Policies(TypedDict):
    """Policies by model."""

    policies: list[PolicyDocument]


class OnePolicy(TypedDict):
    """One policy."""

    policy: PolicyDocument


class RemovedPolicy(TypedDict):
    """What was taken away."""

    removed: PolicyDocument


class PoliciesQuery(TenantQuery):
    """Of one model (name, alias or id); of one tenant (id or name), without those of all others."""

    model: Text | None = None


class NewPolicy(Body):
    """`tenant` is an id or a name; without it the policy is of all that have none of their own. `to` and `after_s` are
    of a fallback: the provider's model that answers instead, and after how many seconds in line."""

    tenant: Text | None = None
    when_cold: Literal["wait", "fallback", "reject"]
    to: Text | None = None
    after_s: Annotated[int, Field(ge=0, le=MOST_S)] = 0


@api.operation(
    "GET", "/policies", Permission.SEE, "Policies for cold models", tag=TAG,
    query=PoliciesQuery, answer=Policies, errors=(404,),
)  # fmt: skip
def list_policies(query: PoliciesQuery) -> Policies:
    model_id = None if query.model is None else find_model(db(), query.model).id
    tenant_id = query.tenant_id()
    rows = cold_policies.list_policies(db(), model_id, tenant_id)
    return {"policies": [policy_document(db(), row) for row in rows]}


@api.operation(
    "PUT", "/models/<path:model>/policy", Permission.CHANGE_MONEY,
    "Set what becomes of requests while a model is cold", tag=TAG, body=NewPolicy, answer=OnePolicy, errors=(409,),
)  # fmt: skip
def set_policy(model: str, body: NewPolicy) -> OnePolicy:
    def do(session: Session, actor: str) -> PolicyDocument:
        row = cold_policies.set_policy(
            session,
            actor,
            find_model(session, model).id,
            mode=body.when_cold,
            tenant_id=None if body.tenant is None else tenants.find_tenant(session, body.tenant).id,
            after_s=body.after_s,
            fallback_model_id=None if body.to is None else find_model(session, body.to).id,
        )
        return policy_document(session, row)

    return {"policy": change(do)}


@api.operation(
    "DELETE", "/models/<path:model>/policy", Permission.CHANGE_MONEY,
    "Take away a tenant's policy, or the one of all others", tag=TAG, query=TenantQuery, answer=RemovedPolicy,
)  # fmt: skip
def remove_policy(model: str, query: TenantQuery) -> RemovedPolicy:
    tenant_id = query.tenant_id()

    def do(session: Session, actor: str) -> PolicyDocument:
        model_id = find_model(session, model).id
        document = policy_document(session, cold_policies.get_policy(session, model_id, tenant_id))
        cold_policies.remove_policy(session, actor, model_id, tenant_id=tenant_id)
        return document

    return {"removed": change(do)}
