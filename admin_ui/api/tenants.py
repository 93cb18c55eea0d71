"""Tenants: their limits, and their money."""

from typing import Any, Literal

from pydantic import Field
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.amounts import AmountBody
from admin_ui.api.management import Limit, Page, Text, api
from admin_ui.api.operation import Body, Changes, change, change_once, given
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.documents.access import TenantBalanceDocument, tenant_balance_document
from registry.documents.money import LedgerDocument, ledger_document
from registry.models import Tenant
from registry.ops import money, tenants

TAG = "tenants"
ServiceClass = Literal["fast", "standard", "cheap"]


class Tenants(TypedDict):
    """Tenants by name; `next_after` is null on the last page."""

    tenants: list[TenantBalanceDocument]
    next_after: str | None


class OneTenant(TypedDict):
    """One tenant."""

    tenant: TenantBalanceDocument


class Entered(TypedDict):
    """A ledger entry that was made, and the balance with it."""

    entry: LedgerDocument
    balance_nusd: int
    balance_usd: str


class TenantsQuery(Page):
    """`after`: `next_after` of the page before."""

    after: Text | None = None


class NewTenant(Body):
    """A tenant to be made. Limits: requests and tokens a minute, requests at once; null is unlimited."""

    name: Text
    service_class: ServiceClass = Field("standard", alias="class")
    rpm: Limit | None = None
    tpm: Limit | None = None
    parallel: Limit | None = None


class TenantChanges(Changes):
    """What is not given stays; null lifts a limit."""

    name: Text = ""
    service_class: ServiceClass = Field("standard", alias="class")
    rpm: Limit | None = None
    tpm: Limit | None = None
    parallel: Limit | None = None
    enabled: bool = True


class Money(AmountBody):
    """An amount, in nano-dollars or as dollars ("12.50"): one of the two. The reason stays in the ledger for ever."""

    reason: Text


@api.operation("GET", "/tenants", Permission.SEE, "Tenants by name", tag=TAG, query=TenantsQuery, answer=Tenants)
def list_tenants(query: TenantsQuery) -> Tenants:
    found = tenants.list_tenants(db(), after_name=query.after, limit=query.limit + 1)
    page = found[: query.limit]
    balances = money.balances_nusd(db())
    return {
        "tenants": [tenant_balance_document(row, balances.get(row.id, 0)) for row in page],
        "next_after": page[-1].name if len(found) > query.limit else None,
    }


@api.operation(
    "POST", "/tenants", Permission.CHANGE_TENANTS, "Make a tenant", tag=TAG,
    body=NewTenant, answer=OneTenant, status=201, errors=(409,),
)  # fmt: skip
def create_tenant(body: NewTenant) -> OneTenant:
    made = change(
        lambda session, actor: tenants.create_tenant(session, actor, **body.model_dump()),
        balance_of=lambda tenant: tenant.id,
    )
    return {"tenant": tenant_balance_document(made, 0)}


@api.operation("GET", "/tenants/<tenant>", Permission.SEE, "One tenant, by id or name", tag=TAG, answer=OneTenant)
def show_tenant(tenant: str) -> OneTenant:
    return _shown(tenants.find_tenant(db(), tenant))


@api.operation(
    "PATCH", "/tenants/<tenant>", Permission.CHANGE_TENANTS, "Change a tenant", tag=TAG,
    body=TenantChanges, answer=OneTenant, errors=(409,),
)  # fmt: skip
def update_tenant(tenant: str, body: TenantChanges) -> OneTenant:
    def do(session: Session, actor: str) -> Tenant:
        row = tenants.find_tenant(session, tenant)
        changes = given(body)
        enabled = changes.pop("enabled", None)
        if changes:
            tenants.update_tenant(session, actor, row.id, **changes)
        if enabled is not None:
            tenants.set_enabled(session, actor, row.id, enabled)
        return row

    return _shown(change(do))


@api.operation(
    "POST", "/tenants/<tenant>/top-up", Permission.CHANGE_MONEY, "Credit a tenant", tag=TAG,
    body=Money, answer=Entered, status=201, errors=(409,), once=True,
)  # fmt: skip
def top_up(tenant: str, body: Money) -> dict[str, Any]:
    return _enter(tenant, body, credit=True)


@api.operation(
    "POST", "/tenants/<tenant>/adjust", Permission.CHANGE_MONEY, "Correct a balance up or down", tag=TAG,
    body=Money, answer=Entered, status=201, errors=(409,), once=True,
)  # fmt: skip
def adjust(tenant: str, body: Money) -> dict[str, Any]:
    return _enter(tenant, body, credit=False)


def _enter(tenant: str, body: Money, *, credit: bool) -> dict[str, Any]:
    tenant_id = tenants.find_tenant(db(), tenant).id

    def do(session: Session, actor: str) -> dict[str, Any]:
        entry = (money.top_up if credit else money.adjust)(session, actor, tenant_id, body.nusd(), body.reason)
        balance = money.balance_nusd(session, tenant_id)
        return {
            "entry": ledger_document(entry),
            "balance_nusd": balance,
            "balance_usd": money.format_dollars(balance),
        }

    with body.named():
        return change_once(do, tenant_id=tenant_id)


def _shown(row: Tenant) -> OneTenant:
    return {"tenant": tenant_balance_document(row, money.balance_nusd(db(), row.id))}
