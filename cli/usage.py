"""`hydrant usage`: what was used and what it cost, from the SQL ledger."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.command import Group, reporting
from cli.console import Console, table
from cli.errors import Failure
from cli.params import MOMENT
from cli.units import moment, seconds

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.ops.usage import UsageFilter

_FILTERS = (
    click.option("--tenant", help="Only this tenant's, by name or id."),
    click.option("--model", help="Only this model's, by name; by id (mod_...) for a deleted one."),
    click.option("--key", help="Only this key's, by id."),
    click.option("--since", type=MOMENT, help="From this moment: 2026-11-01, 2026-11-24T10:00 (UTC), or 24h, 7d ago."),
    click.option("--until", type=MOMENT, help="Before this moment."),
)


def _filtered(function: Any) -> Any:
    for option in reversed(_FILTERS):
        function = option(function)
    return function


@click.group(
    cls=Group,
    examples=[
        "hydrant usage totals --tenant acme --since 30d",
        "hydrant usage rows --since 1h",
        "hydrant usage csv --since 2026-11-01 --until 2026-12-01 --output november.csv",
    ],
)
def usage() -> None:
    """What was used and what it cost, as billed. Amounts are exact: a nano-dollar is the smallest."""


@usage.command(examples=["hydrant usage rows", "hydrant usage rows --tenant acme --since 24h --limit 200 --json"])
@_filtered
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many rows.")
@click.option("--offset", type=click.IntRange(0), default=0, help="How many rows to pass over.")
@reporting
def rows(console: Console, limit: int, offset: int, **wanted: Any) -> None:
    """Attempts, the latest first, one row each. Estimated: a provider's stream ended before it told its counts, which
    are at least these."""
    from cli.workspace import Workspace
    from registry.documents.money import usage_document
    from registry.ops.money import usd
    from registry.ops.usage import list_usage

    with Workspace(console) as here, here.read() as session:
        found = list_usage(session, _filter(session, wanted), limit=limit, offset=offset)
        documents = [usage_document(row) for row in found]
    shown = [
        (
            moment(d["ended_at_ms"]),
            d["model_name"],
            f"{d['outcome']}, estimated" if d["estimated"] else d["outcome"],
            d["prompt_tokens"],
            d["cached_tokens"],
            d["completion_tokens"],
            usd(d["cost_nusd"]),
            seconds(d["held_ms"]),
            d["attempt_id"],
        )
        for d in documents
    ]
    headings = ("ENDED (UTC)", "MODEL", "OUTCOME", "PROMPT", "CACHED", "ANSWER", "COST", "HELD", "ATTEMPT")
    lines = table(headings, shown, right="000111.10") if shown else ["nothing was used"]
    console.show({"usage": documents}, lines)


@usage.command(examples=["hydrant usage totals", "hydrant usage totals --tenant acme --since 30d"])
@_filtered
@reporting
def totals(console: Console, **wanted: Any) -> None:
    """Sums for each model, and over all. An invoice counts those requests that were answered, at least in part."""
    from cli.workspace import Workspace
    from registry.documents.money import totals_document
    from registry.ops.money import usd
    from registry.ops.usage import usage_by_model, usage_totals

    with Workspace(console) as here, here.read() as session:
        restricted = _filter(session, wanted)
        by_model = {name: totals_document(sums) for name, sums in usage_by_model(session, restricted).items()}
        total = totals_document(usage_totals(session, restricted))
    columns = ("requests", "answered", "prompt_tokens", "cached_tokens", "completion_tokens")
    rows: list[tuple[str, dict[str, Any]]] = [(name, {**sums}) for name, sums in [*by_model.items(), ("all", total)]]
    shown = [(name, *(sums[c] for c in columns), usd(sums["cost_nusd"])) for name, sums in rows]
    headings = ("MODEL", "REQUESTS", "ANSWERED", "PROMPT", "CACHED", "ANSWER", "COST")
    console.show({"totals": total, "by_model": by_model}, table(headings, shown, right="011111."))


@usage.command(examples=["hydrant usage ledger --tenant acme", "hydrant usage ledger --limit 200 --json"])
@click.option("--tenant", help="Only this tenant's, by name or id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many entries.")
@reporting
def ledger(console: Console, tenant: str | None, limit: int) -> None:
    """Ledger entries, the latest first: charges, top-ups, adjustments."""
    from cli.ledger_rows import ledger_table
    from cli.workspace import Workspace
    from registry.documents.money import ledger_document
    from registry.ops.tenants import find_tenant
    from registry.ops.usage import list_ledger

    with Workspace(console) as here, here.read() as session:
        tenant_id = find_tenant(session, tenant).id if tenant is not None else None
        documents = [ledger_document(row) for row in list_ledger(session, tenant_id=tenant_id, limit=limit)]
    console.show({"ledger": documents}, ledger_table(documents))


@usage.command(
    examples=[
        "hydrant usage rejected                  what could not be billed, and why",
        "hydrant usage rejected --retry 9f86d081884c7d65...    after the cause is mended",
    ]
)
@click.option("--retry", "digest", metavar="DIGEST", help="Settle this event again; a beginning of the digest will do.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many to list.")
@reporting
def rejected(console: Console, digest: str | None, limit: int) -> None:
    """Usage events that could not be billed, the oldest first. Each is kept whole until it is settled."""
    from cli.rejected import rejected_document, retry
    from cli.workspace import Workspace
    from registry.ops.ledger import list_rejected

    with Workspace(console) as here:
        if digest is not None:
            settled = retry(here, digest)
            console.show({"settled": settled}, [f"settled {', '.join(settled) or 'before, by another delivery'}"])
            return
        with here.read() as session:
            documents = [rejected_document(row) for row in list_rejected(session, limit=limit)]
    shown = [(moment(d["at_ms"]), d["digest"][:16], d["attempt_id"], d["reason"]) for d in documents]
    lines = (
        table(("SINCE (UTC)", "DIGEST", "ATTEMPT", "REASON"), shown) if shown else ["nothing: every event was billed"]
    )
    console.show({"rejected": documents}, lines)


@usage.command(
    examples=[
        "hydrant usage csv > usage.csv",
        "hydrant usage csv --tenant acme --since 30d --output acme.csv",
        "hydrant usage csv --ledger --output ledger.csv",
    ]
)
@_filtered
@click.option("--ledger", "of_ledger", is_flag=True, help="The ledger instead of the attempts (takes --tenant only).")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; standard output if absent.")
@reporting
def csv(console: Console, of_ledger: bool, output: Path | None, **wanted: Any) -> None:
    """Everything as CSV, the oldest first, however much it is.

    Of an attempt cold_start_id is the start of the worker that answered, whether or not the request waited for it;
    held_ms, the milliseconds in line, says that.
    """
    from cli.workspace import Workspace
    from registry.ops.usage import ledger_csv, usage_csv

    if console.as_json and output is None:
        raise click.UsageError("this prints CSV; add --output FILE, or take: hydrant usage rows --json")
    if of_ledger and any(wanted[name] is not None for name in ("model", "key", "since", "until")):
        raise click.UsageError("--ledger can be restricted by --tenant only")
    with Workspace(console) as here, here.read() as session:
        restricted = _filter(session, wanted)
        pieces = ledger_csv(session, restricted.tenant_id) if of_ledger else usage_csv(session, restricted)
        if output is None:
            for piece in pieces:
                click.echo(piece, nl=False)
            return
        written = _write(output, pieces)
    console.show({"csv": {"path": str(output), "bytes": written}}, [f"wrote {output}: {written} bytes"])


def _write(output: Path, pieces: Iterable[str]) -> int:
    """Write a file whole or not at all; returns its bytes."""
    partial = output.with_name(output.name + ".partial")
    try:
        with closing(partial.open("w", encoding="utf-8", newline="")) as file:
            for piece in pieces:
                file.write(piece)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return output.stat().st_size


def _filter(session: "Session", wanted: dict[str, Any]) -> "UsageFilter":
    from registry.ops import models, tenants
    from registry.ops.usage import UsageFilter

    since, until, name = wanted["since"], wanted["until"], wanted["model"]
    if since is not None and until is not None and since >= until:
        raise Failure("--since must be before --until", "since")
    by_id = name is None or name.startswith("mod_")
    return UsageFilter(
        tenant_id=tenants.find_tenant(session, wanted["tenant"]).id if wanted["tenant"] is not None else None,
        model_id=name if by_id else models.resolve_name(session, name).id,
        key_id=wanted["key"],
        from_ms=since,
        until_ms=until,
    )
