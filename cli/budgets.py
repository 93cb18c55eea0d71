"""`hydrant budget`: what a tenant or a key may spend in a day, a month or in total."""

from typing import TYPE_CHECKING

import click

from cli.command import Group, reporting
from cli.console import Console, table
from cli.errors import Failure
from cli.params import DOLLARS
from cli.units import moment
from registry.budget_windows import PERIODS

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.documents.budgets import BudgetDocument

_PERIOD = click.Choice(PERIODS)


@click.group(
    cls=Group,
    examples=[
        "hydrant budget set acme month 500 --alert 80 --alert 95",
        "hydrant budget set key_01J8Z3M5Q4 day 5 --soft",
        "hydrant budget list",
    ],
)
def budget() -> None:
    """Budgets by period (UTC). A tenant is named by its name or id, a key by its id."""


@budget.command(
    "set",
    examples=["hydrant budget set acme month 500", "hydrant budget set acme total 2000 --soft --alert 50 --alert 90"],
)
@click.argument("owner")
@click.argument("period", type=_PERIOD)
@click.argument("amount", type=DOLLARS)
@click.option("--alert", "alerts", multiple=True, type=int, help="Percent at which an alert is recorded; default 80.")
@click.option("--soft", is_flag=True, help="Only alert: refuse nothing.")
@reporting
def set_(console: Console, owner: str, period: str, amount: int, alerts: tuple[int, ...], soft: bool) -> None:
    """Let OWNER (a tenant or key) spend AMOUNT dollars in each PERIOD: day, month or total.

    What was spent earlier in the present period counts. Alerts are shown in the admin UI and logged by the ledger.
    """
    from cli.workspace import Workspace
    from registry.ops import budgets
    from registry.ops.money import usd

    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: budgets.set_budget(
                session,
                actor,
                _scope_id(session, owner),
                period,
                amount_nusd=amount,
                alert_percent=alerts or (80,),
                hard=not soft,
            ),
            balances=lambda made: [made.tenant_id],
        )
        with here.read() as session:
            document = _documents(session, row.scope_id)[period]
    console.show(
        {"budget": document},
        [f"{owner} may spend {usd(document['amount_nusd'])} ({period}, {document['kind']}); {_so_far(document)}"],
    )


@budget.command(examples=["hydrant budget remove acme month"])
@click.argument("owner")
@click.argument("period", type=_PERIOD)
@reporting
def remove(console: Console, owner: str, period: str) -> None:
    """Take a budget away; its alerts stay."""
    from cli.workspace import Workspace
    from registry.ops import budgets

    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: budgets.remove_budget(session, actor, _scope_id(session, owner), period)
        )
    console.show({"removed": {"scope_id": row.scope_id, "period": period}}, [f"{owner} has no budget ({period})"])


@budget.command("list", examples=["hydrant budget list", "hydrant budget list --json"])
@reporting
def list_(console: Console) -> None:
    """All budgets with what is spent of them (settled), and the latest alerts."""
    from cli.workspace import Workspace
    from registry.documents.budgets import alert_document
    from registry.ops import budgets
    from registry.ops.money import usd

    with Workspace(console) as here, here.read() as session:
        documents = list(_documents(session).values())
        alerts = [alert_document(row) for row in budgets.list_alerts(session)]
        owners = [(d["tenant_id"], d["scope_id"]) for d in (*documents, *alerts)]
        names = budgets.owner_names(session, owners)
    rows = [
        (
            names[d["tenant_id"]],
            *((names[d["scope_id"]], d["scope_id"]) if d["scope_id"] != d["tenant_id"] else (None, None)),
            d["period"],
            d["kind"],
            usd(d["spent_nusd"]),
            usd(d["amount_nusd"]),
            d["percent"],
        )
        for d in documents
    ]
    headings = ("TENANT", "KEY", "KEY ID", "PERIOD", "KIND", "SPENT", "AMOUNT", "%")
    lines = table(headings, rows, right="00000..1")
    for alert in alerts:
        whose = names[alert["tenant_id"]]
        if alert["scope_id"] != alert["tenant_id"]:
            whose = f"key {names[alert['scope_id']]} of {whose}"
        lines.append(
            f"{moment(alert['at_ms'])}  {whose} reached {alert['percent']} % ({alert['period']}): "
            f"{usd(alert['spent_nusd'])} of {usd(alert['amount_nusd'])}"
        )
    none = ["no budget yet; set one: hydrant budget set TENANT month 100"]
    console.show({"budgets": documents, "alerts": alerts}, lines if rows or alerts else none)


def _scope_id(session: "Session", owner: str) -> str:
    from registry.errors import NotFoundError
    from registry.ops import keys, tenants

    if owner.startswith("key_"):
        return keys.get_key(session, owner).id
    try:
        return tenants.find_tenant(session, owner).id
    except NotFoundError as error:
        raise Failure(f"{error.message}; a key is named by its id, key_... (hydrant key list)", "owner") from None


def _documents(session: "Session", scope_id: str | None = None) -> dict[str, "BudgetDocument"]:
    """Budgets as documents: of one owner by period, of all by owner and period."""
    from registry.documents.budgets import budget_document
    from registry.ids import now_ms
    from registry.ops import budgets

    rows = [row for row in budgets.list_budgets(session) if scope_id in (None, row.scope_id)]
    return {
        one.budget.period if scope_id else f"{one.budget.scope_id} {one.budget.period}": budget_document(one)
        for one in budgets.spending(session, rows, now_ms())
    }


def _so_far(document: "BudgetDocument") -> str:
    from registry.ops.money import usd

    until = f" until {moment(document['ends_at_ms'])} UTC" if document["ends_at_ms"] is not None else ""
    return f"{usd(document['spent_nusd'])} are spent{until and ', it lasts'}{until}"
