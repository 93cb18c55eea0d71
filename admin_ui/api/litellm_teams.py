"""LiteLLM's routes for teams: a team is a tenant."""

from pydantic import Field
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api import litellm_budgets
from admin_ui.api.litellm import TAG, api, iso, usd
from admin_ui.api.litellm_budgets import BudgetInfo
from admin_ui.api.litellm_fields import DeleteTeams, NewTeam, UpdateTeam
from admin_ui.api.litellm_keys import KeyInfo, key_info
from admin_ui.api.management import PageSize, Text
from admin_ui.api.operation import Query, change
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.ids import now_ms
from registry.models import Tenant
from registry.ops import budgets, keys, money, tenants


class TeamInfo(BudgetInfo):
    """A tenant, in LiteLLM's words; besides, its balance. `spend` is, as there, what was spent since its budget last
    began anew; in total where it has none. Of several budgets the hard one with least left is told."""

    team_id: str
    team_alias: str
    organization_id: None
    models: list[str]
    members_with_roles: list[str]
    rpm_limit: int | None
    tpm_limit: int | None
    max_parallel_requests: int | None
    blocked: bool
    spend: float
    spend_nusd: int
    balance_nusd: int
    created_at: str


class TeamAnswer(TypedDict):
    """A team with its keys, the newest first."""

    team_id: str
    team_info: TeamInfo
    keys: list[KeyInfo]
    team_memberships: list[str]


class UpdatedTeam(TypedDict):
    """A team as it is now."""

    team_id: str
    data: TeamInfo


class DeletedTeams(TypedDict):
    """What was locked out, as it was named."""

    deleted_teams: list[str]


class TeamQuery(Query):
    """`team_id`: a tenant's id or name."""

    team_id: Text
    key_limit: PageSize = Field(default=100, description="How many keys are told at most")


@api.operation(
    "POST",
    "/team/new",
    Permission.CHANGE_TENANTS,
    "Make a tenant",
    tag=TAG,
    body=NewTeam,
    answer=TeamInfo,
    errors=(409,),
)
def litellm_new_team(body: NewTeam) -> TeamInfo:
    body.refuse_what_teams_lack()

    def do(session: Session, actor: str) -> Tenant:
        tenant = tenants.create_tenant(
            session,
            actor,
            name=body.name(),
            rpm=body.rpm_limit,
            tpm=body.tpm_limit,
            parallel=body.max_parallel_requests,
        )
        if body.budget():
            litellm_budgets.set_by(session, actor, tenant.id, tenant.id, body.budget())
        return tenant

    return _team_info(change(do, balance_of=lambda tenant: tenant.id))


@api.operation(
    "GET", "/team/info", Permission.SEE, "A tenant and its keys", tag=TAG,
    query=TeamQuery, answer=TeamAnswer, errors=(404,),
)  # fmt: skip
def litellm_team_info(query: TeamQuery) -> TeamAnswer:
    tenant = tenants.find_tenant(db(), query.team_id)
    rows = keys.list_keys(db(), tenant.id, limit=query.key_limit)
    return {
        "team_id": tenant.id,
        "team_info": _team_info(tenant),
        "keys": [key_info(row) for row in rows],
        "team_memberships": [],
    }


@api.operation("GET", "/team/list", Permission.SEE, "Tenants, by name", tag=TAG, answer=list[TeamInfo])
def litellm_team_list() -> list[TeamInfo]:
    return [_team_info(tenant) for tenant in tenants.list_tenants(db())]


@api.operation(
    "POST", "/team/update", Permission.CHANGE_TENANTS, "Change a tenant, lock it out or let it in", tag=TAG,
    body=UpdateTeam, answer=UpdatedTeam, errors=(404, 409),
)  # fmt: skip
def litellm_update_team(body: UpdateTeam) -> UpdatedTeam:
    body.refuse_what_teams_lack()
    budget = body.budget()
    litellm_budgets.refuse_unless_owner(budget)

    def do(session: Session, actor: str) -> Tenant:
        tenant = tenants.find_tenant(session, body.team_id)
        changes = body.changes()
        if changes:
            tenants.update_tenant(session, actor, tenant.id, **changes)
        if body.blocked is not None and body.blocked is tenant.enabled:
            tenants.set_enabled(session, actor, tenant.id, not body.blocked)
        if budget:
            litellm_budgets.set_by(session, actor, tenant.id, tenant.id, budget)
        return tenant

    tenant = change(do, balance_of=lambda tenant: tenant.id)
    return {"team_id": tenant.id, "data": _team_info(tenant)}


@api.operation(
    "POST", "/team/delete", Permission.CHANGE_TENANTS,
    "Lock tenants out and end their keys for ever: all that are named, or none; what they paid and used stays", tag=TAG,
    body=DeleteTeams, answer=DeletedTeams, errors=(404,),
)  # fmt: skip
def litellm_delete_teams(body: DeleteTeams) -> DeletedTeams:
    body.refuse_unknown()

    def do(session: Session, actor: str) -> None:
        for named in body.team_ids:
            tenant = tenants.find_tenant(session, named)
            if tenant.enabled:
                tenants.set_enabled(session, actor, tenant.id, False)
            for key in keys.list_keys(session, tenant.id, live=True):
                keys.revoke_key(session, actor, key.id)

    change(do)
    return {"deleted_teams": body.team_ids}


def _team_info(tenant: Tenant) -> TeamInfo:
    rows = litellm_budgets.budgets_of(db(), tenant.id, tenant.id)
    spending = litellm_budgets.told(budgets.spending(db(), rows, now_ms()))
    spent = budgets.spent_nusd(db(), tenant.id, tenant.id, "total", 0) if spending is None else spending.spent_nusd
    return {
        "team_id": tenant.id,
        "team_alias": tenant.name,
        "organization_id": None,
        "models": [],
        "members_with_roles": [],
        "rpm_limit": tenant.rpm,
        "tpm_limit": tenant.tpm,
        "max_parallel_requests": tenant.parallel,
        **litellm_budgets.info(spending),
        "blocked": not tenant.enabled,
        "spend": usd(spent),
        "spend_nusd": spent,
        "balance_nusd": money.balance_nusd(db(), tenant.id),
        "created_at": iso(tenant.created_at_ms),
    }
