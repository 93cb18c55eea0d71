"""`hydrant tenant`: customers or teams, their limits and their money."""

from typing import Any

import click

from cli.command import Group, reporting
from cli.console import Console, fields, table
from cli.params import DOLLARS, LIMIT, or_none
from cli.units import moment

_limits = (
    click.option("--rpm", type=LIMIT, help="Requests a minute over all keys of the tenant, or none."),
    click.option("--tpm", type=LIMIT, help="Tokens a minute, or none."),
    click.option("--parallel", type=LIMIT, help="Requests at once, or none."),
    click.option(
        "--class",
        "service_class",
        type=click.Choice(["fast", "standard", "cheap"]),
        help="How soon models that sleep answer it: in half of their service level, in all, or in four times as long.",
    ),
)


def _with_limits(function: Any) -> Any:
    for option in reversed(_limits):
        function = option(function)
    return function


@click.group(
    cls=Group,
    examples=[
        "hydrant tenant create acme --rpm 600 --parallel 16",
        "hydrant tenant top-up acme 25 --reason 'invoice 1042'",
        "hydrant tenant list",
    ],
)
def tenant() -> None:
    """Tenants: who may ask, how much at once, and with what money. A tenant is named by its name or its id."""


@tenant.command(examples=["hydrant tenant create acme", "hydrant tenant create acme --rpm 600 --class fast --json"])
@click.argument("name")
@_with_limits
@reporting
def create(console: Console, name: str, service_class: str | None, **limits: int | str | None) -> None:
    """Add a tenant. Its balance is zero: top it up before its first request, and give it a key."""
    from cli.workspace import Workspace
    from registry.documents.access import tenant_balance_document
    from registry.ops import tenants

    given: dict[str, Any] = {field: or_none(value) for field, value in limits.items() if value is not None}
    if service_class is not None:
        given["service_class"] = service_class
    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: tenants.create_tenant(session, actor, name=name, **given),
            balances=lambda made: [made.id],
        )
        console.show(
            {"tenant": tenant_balance_document(row, 0)},
            [
                f"created tenant {row.name} ({row.id})",
                f"next: hydrant tenant top-up {row.name} 25    and: hydrant key create {row.name} --name first",
            ],
        )


@tenant.command("list", examples=["hydrant tenant list", "hydrant tenant list --json"])
@reporting
def list_(console: Console) -> None:
    """All tenants with their limits and settled balances."""
    from cli.workspace import Workspace
    from registry.documents.access import tenant_balance_document
    from registry.ops import money, tenants

    with Workspace(console) as here, here.read() as session:
        balances = money.balances_nusd(session)
        documents = [tenant_balance_document(row, balances.get(row.id, 0)) for row in tenants.list_tenants(session)]
    rows = [
        (
            d["name"],
            d["tenant_id"],
            d["enabled"],
            d["class"],
            d["rpm"],
            d["tpm"],
            d["parallel"],
            money.usd(d["balance_nusd"]),
        )
        for d in documents
    ]
    lines = table(("NAME", "ID", "ENABLED", "CLASS", "RPM", "TPM", "PARALLEL", "BALANCE"), rows, right="0000111.")
    console.show({"tenants": documents}, lines if rows else ["no tenant yet; add one: hydrant tenant create NAME"])


@tenant.command(examples=["hydrant tenant show acme"])
@click.argument("name")
@reporting
def show(console: Console, name: str) -> None:
    """One tenant: limits, balance, spending, budgets, keys, policies for cold models and its latest ledger entries."""
    from cli.ledger_rows import ledger_table
    from cli.workspace import Workspace
    from registry.documents.access import tenant_balance_document
    from registry.documents.budgets import budget_document
    from registry.documents.cold_policies import policy_document
    from registry.documents.money import ledger_document
    from registry.ids import now_ms
    from registry.ops import budgets, cold_policies, keys, money, tenants, usage

    with Workspace(console) as here, here.read() as session:
        row = tenants.find_tenant(session, name)
        document = tenant_balance_document(row, money.balance_nusd(session, row.id))
        live = sum(1 for key in keys.list_keys(session, row.id) if key.revoked_at_ms is None)
        entries = [ledger_document(entry) for entry in usage.list_ledger(session, tenant_id=row.id, limit=10)]
        spent = usage.usage_totals(session, usage.UsageFilter(tenant_id=row.id)).cost_nusd
        set_ = budgets.spending(session, budgets.list_budgets(session, [row.id]), now_ms())
        limits = [budget_document(one) for one in set_]
        policies = [policy_document(session, one) for one in cold_policies.list_policies(session, tenant_id=row.id)]
    shown = {
        **document,
        "keys": live,
        "spent_nusd": spent,
        "spent_usd": money.format_dollars(spent),
        "budgets": limits,
        "policies": policies,
    }
    told = {**shown, "balance": money.usd(document["balance_nusd"]), "spent": money.usd(spent)}
    lines = fields(
        (label, told[field])
        for label, field in (
            ("name", "name"),
            ("id", "tenant_id"),
            ("enabled", "enabled"),
            ("class", "class"),
            ("balance", "balance"),
            ("spent on usage", "spent"),
            ("requests a minute", "rpm"),
            ("tokens a minute", "tpm"),
            ("requests at once", "parallel"),
            ("live keys", "keys"),
        )
    )
    lines += ["created            " + (moment(document["created_at_ms"]) or ""), ""]
    lines += [
        f"budget: {'the tenant' if one['scope_id'] == one['tenant_id'] else one['scope_id']} ({one['period']}, "
        f"{one['kind']}): {money.usd(one['spent_nusd'])} of {money.usd(one['amount_nusd'])} are spent"
        for one in limits
    ]
    for policy in policies:
        then = f" to {policy['to']} after {policy['after_s']} s" if policy["to"] else ""
        lines.append(f"policy: while {policy['model']} is cold, {policy['when_cold']}{then}")
    if limits or policies:
        lines.append("")
    console.show({"tenant": {**shown, "ledger": entries}}, [*lines, *ledger_table(entries)])


@tenant.command(examples=["hydrant tenant update acme --rpm 1200", "hydrant tenant update acme --parallel none"])
@click.argument("name")
@click.option("--name", "new_name", help="A new name.")
@_with_limits
@reporting
def update(
    console: Console, name: str, new_name: str | None, service_class: str | None, **limits: int | str | None
) -> None:
    """Change a tenant's name, class or limits. What is not given stays; `none` lifts a limit."""
    from cli.workspace import Workspace
    from registry.documents.access import tenant_document
    from registry.ops import tenants

    changes: dict[str, Any] = {field: or_none(value) for field, value in limits.items() if value is not None}
    if new_name is not None:
        changes["name"] = new_name
    if service_class is not None:
        changes["service_class"] = service_class
    if not changes:
        raise click.UsageError("nothing to change: give --name, --class, --rpm, --tpm or --parallel")
    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: tenants.update_tenant(
                session, actor, tenants.find_tenant(session, name).id, **changes
            )
        )
    console.show({"tenant": tenant_document(row)}, [f"changed {row.name}: {', '.join(sorted(changes))}"])


@tenant.command(examples=["hydrant tenant enable acme"])
@click.argument("name")
@reporting
def enable(console: Console, name: str) -> None:
    """Let a tenant in again; its keys work as before."""
    _set_enabled(console, name, True)


@tenant.command(examples=["hydrant tenant disable acme"])
@click.argument("name")
@reporting
def disable(console: Console, name: str) -> None:
    """Lock a tenant out: all its keys stop working within a second. Running answers end normally."""
    _set_enabled(console, name, False)


@tenant.command("top-up", examples=["hydrant tenant top-up acme 25", "hydrant tenant top-up acme 0.5 --reason 'trial'"])
@click.argument("name")
@click.argument("amount", type=DOLLARS)
@click.option("--reason", default="top-up", show_default=True, help="Kept in the ledger for ever.")
@reporting
def top_up(console: Console, name: str, amount: int, reason: str) -> None:
    """Credit a tenant with AMOUNT dollars. Each run credits once more."""
    _enter(console, name, amount, reason, credit=True)


@tenant.command(examples=["hydrant tenant adjust acme --amount -2.50 --reason 'billed twice on 3 May'"])
@click.argument("name")
@click.option("--amount", type=DOLLARS, required=True, help="Dollars to add, or with a minus to take away.")
@click.option("--reason", required=True, help="Kept in the ledger for ever.")
@reporting
def adjust(console: Console, name: str, amount: int, reason: str) -> None:
    """Correct a tenant's balance up or down. Ledger entries are never changed: this adds one."""
    _enter(console, name, amount, reason, credit=False)


def _set_enabled(console: Console, name: str, enabled: bool) -> None:
    from cli.workspace import Workspace
    from registry.documents.access import tenant_document
    from registry.ops import tenants

    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: tenants.set_enabled(session, actor, tenants.find_tenant(session, name).id, enabled)
        )
    console.show({"tenant": tenant_document(row)}, [f"{row.name} is {'enabled' if enabled else 'disabled'}"])


def _enter(console: Console, name: str, amount: int, reason: str, *, credit: bool) -> None:
    from cli.workspace import Workspace
    from registry.documents.money import ledger_document
    from registry.ops import money, tenants

    enter = money.top_up if credit else money.adjust
    with Workspace(console) as here:
        entry = here.change(
            lambda session, actor: enter(session, actor, tenants.find_tenant(session, name).id, amount, reason),
            publish=False,
            balances=lambda made: [made.tenant_id],
        )
        with here.read() as session:
            balance = money.balance_nusd(session, entry.tenant_id)
    document = {"entry": ledger_document(entry), "balance_nusd": balance, "balance_usd": money.format_dollars(balance)}
    done = f"{'+' if amount > 0 else ''}{money.usd(amount)} for {name}"
    console.show(document, [f"{done}; the balance is now {money.usd(balance)}"])
