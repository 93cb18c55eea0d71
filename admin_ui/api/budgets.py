"""Budgets of tenants and keys by period, and the alerts of them."""

from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.amounts import AmountBody
from admin_ui.api.management import Page, api
from admin_ui.api.money import TenantQuery
from admin_ui.api.operation import change
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.documents.budgets import AlertDocument, BudgetDocument, alert_document, budget_document
from registry.ids import now_ms
from registry.ops import budgets, keys, tenants
from registry.ops.budgets import MAX_ALERTS

TAG = "budgets"
Percent = Annotated[int, Field(ge=1, le=100)]


class Budgets(TypedDict):
    """Budgets by tenant, owner and period."""

    budgets: list[BudgetDocument]


class OneBudget(TypedDict):
    """One budget."""

    budget: BudgetDocument


class Removed(TypedDict):
    """What was taken away."""

    scope_id: str
    period: str


class RemovedBudget(TypedDict):
    """What was taken away; its alerts stay."""

    removed: Removed


class Alerts(TypedDict):
    """Alerts, the latest first."""

    alerts: list[AlertDocument]


class AlertsQuery(TenantQuery, Page):
    """How many, of all tenants or of one and its keys."""


class NewBudget(AmountBody):
    """An amount, in nano-dollars or as dollars ("12.50"): one of the two. `alert_percent`: at which parts of it an
    alert is recorded. `kind`: hard refuses requests that do not fit in, soft only alerts."""

    alert_percent: list[Percent] = Field(default=[80], max_length=MAX_ALERTS)
    kind: Literal["hard", "soft"] = "hard"


@api.operation(
    "GET", "/budgets", Permission.SEE, "Budgets of tenants and of their keys, with what is spent", tag=TAG,
    query=TenantQuery, answer=Budgets, errors=(404,),
)  # fmt: skip
def list_budgets(query: TenantQuery) -> Budgets:
    tenant_id = query.tenant_id()
    rows = budgets.list_budgets(db(), None if tenant_id is None else [tenant_id])
    return {"budgets": [budget_document(one) for one in budgets.spending(db(), rows, now_ms())]}


@api.operation(
    "PUT", "/budgets/<owner>/<period>", Permission.CHANGE_MONEY,
    "Set what a tenant (id or name) or key (id) may spend in each day, month or in total", tag=TAG,
    body=NewBudget, answer=OneBudget,
)  # fmt: skip
def set_budget(owner: str, period: str, body: NewBudget) -> OneBudget:
    with body.named():
        row = change(
            lambda session, actor: budgets.set_budget(
                session,
                actor,
                _scope_id(session, owner),
                period,
                amount_nusd=body.nusd(),
                alert_percent=body.alert_percent,
                hard=body.kind == "hard",
            ),
            balance_of=lambda budget: budget.tenant_id,
        )
    return {"budget": budget_document(budgets.spending(db(), [row], now_ms())[0])}


@api.operation(
    "DELETE", "/budgets/<owner>/<period>", Permission.CHANGE_MONEY, "Take a budget away", tag=TAG, answer=RemovedBudget
)
def remove_budget(owner: str, period: str) -> RemovedBudget:
    row = change(lambda session, actor: budgets.remove_budget(session, actor, _scope_id(session, owner), period))
    return {"removed": {"scope_id": row.scope_id, "period": row.period}}


@api.operation(
    "GET", "/budget-alerts", Permission.SEE, "Alerts of budgets, the latest first", tag=TAG,
    query=AlertsQuery, answer=Alerts, errors=(404,),
)  # fmt: skip
def list_budget_alerts(query: AlertsQuery) -> Alerts:
    rows = budgets.list_alerts(db(), tenant_id=query.tenant_id(), limit=query.limit)
    return {"alerts": [alert_document(row) for row in rows]}


def _scope_id(session: Session, owner: str) -> str:
    return keys.get_key(session, owner).id if owner.startswith("key_") else tenants.find_tenant(session, owner).id
