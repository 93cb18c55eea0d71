"""`hydrant invoice`: what a tenant was charged and credited in a month."""

from typing import Any

import click

from cli.command import Command, reporting
from cli.console import Console, fields, table
from cli.errors import Failure
from cli.units import gpu_seconds, moment


@click.command(
    cls=Command,
    examples=[
        "hydrant invoice acme 2026-11",
        "hydrant invoice acme 2026-11 --format csv > acme-2026-11.csv",
        "hydrant invoice acme 2026-11 --format json",
    ],
)
@click.argument("tenant")
@click.argument("month")
@click.option("--format", "form", type=click.Choice(["text", "csv", "json"]), default="text", show_default=True)
@reporting
def invoice(console: Console, tenant: str, month: str, form: str) -> None:
    """The invoice of MONTH (2026-11, in UTC): usage by model and price, cold starts, credits and adjustments.

    An entry belongs to the month in which it was written. A month that is over is closed ten minutes later, and its
    invoice then never changes; the present month's is so far.
    """
    from cli.workspace import Workspace
    from registry.ops.invoices import invoice as read_invoice
    from registry.ops.invoices import to_csv
    from registry.ops.tenants import find_tenant

    if console.as_json and form == "csv":
        raise Failure("--json and --format csv exclude each other", "format")
    with Workspace(console) as here, here.read() as session:
        document = read_invoice(session, find_tenant(session, tenant).id, month)
    if form == "csv":
        click.echo(to_csv(document), nl=False)
        return
    Console(as_json=console.as_json or form == "json").show({"invoice": document}, _lines(document))


def _lines(document: dict[str, Any]) -> list[str]:
    from registry.ops.money import usd

    lines = fields(
        [
            ("invoice", document["number"]),
            ("tenant", f"{document['tenant']} ({document['tenant_id']})"),
            ("month (UTC)", f"{document['month']}, {document['state']}"),
            ("opening balance", usd(document["opening_nusd"])),
            *((name.replace("_", " "), usd(sum_)) for name, sum_ in document["totals_nusd"].items()),
            ("closing balance", usd(document["closing_nusd"])),
        ]
    )
    counts = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
    used = [
        (line["model"], *_price(line["price"]), *(line[c] for c in counts), usd(line["amount_nusd"]))
        for line in document["usage"]
    ]
    if used:
        prices = ("INPUT/M", "CACHED/M", "OUTPUT/M", "PER REQUEST")
        headings = ("MODEL", *prices, "REQUESTS", "PROMPT", "CACHED", "ANSWER", "AMOUNT")
        lines += ["", *table(headings, used, right="0....1111.")]
    starts = [
        (
            line["model"],
            line["cold_starts"],
            line["waited_requests"],
            gpu_seconds(line["gpu_us"]),
            usd(line["amount_nusd"]),
        )
        for line in document["cold_starts"]
    ]
    if starts:
        lines += ["", *table(("MODEL", "COLD STARTS", "WAITED", "SHARE", "AMOUNT"), starts, right="0111.")]
    rest = [
        (moment(line["at_ms"]), section, usd(line["amount_nusd"]), line["author"], line["reason"] or line["attempt_id"])
        for section in ("corrections", "credits", "adjustments")
        for line in document[section]
    ]
    if rest:
        lines += ["", *table(("WHEN (UTC)", "KIND", "AMOUNT", "BY", "FOR"), rest, right="00.")]
    return lines


def _price(price: dict[str, int] | None) -> tuple[str | None, ...]:
    """Dollars per million tokens of prompt, cached prompt and answer, and dollars per request; dashes if unknown."""
    from registry.ops.money import usd

    if price is None:
        return (None,) * 4
    per_token = (price[name] for name in ("input_nusd", "cached_input_nusd", "output_nusd"))
    return (*(usd(nusd * 10**6) for nusd in per_token), usd(price["request_nusd"]))
