"""`hydrant ledger`: whether the books agree."""

import time
from typing import Any

import click

from cli.command import Group, reporting
from cli.console import Console
from cli.params import MOMENT
from cli.units import moment


@click.group(cls=Group, examples=["hydrant ledger reconcile", "hydrant ledger reconcile --since 2d --json"])
def ledger() -> None:
    """The ledger. Its entries: hydrant usage ledger."""


@ledger.command(examples=["hydrant ledger reconcile", "hydrant ledger reconcile --since 2d --json"])
@click.option("--since", "since_ms", type=MOMENT, help="Only rows since this moment; all there are unless given.")
@reporting
def reconcile(console: Console, since_ms: int | None) -> None:
    """Compare gateways' events, usage, ledger, balances and reservations. Ends with status 1 when any differ.

    What does not agree is looked at again ten seconds later, for requests may be under way; what has not moved by then
    is told, and stored for the admin UI. The ledger's worker does the same every five minutes, with the newest rows.
    """
    from cli.workspace import Workspace, connect_redis
    from registry.documents.books import reconciliation_document
    from registry.ids import now_ms
    from registry.ops import reconciliations
    from registry.reconciliation.look import CONFIRM_AFTER_MS, take_a_look

    with Workspace(console) as here, connect_redis(here.settings.redis_url.get_secret_value()) as redis:
        began = now_ms()
        with here.read() as session:
            look = take_a_look(session, redis, began, since_ms)
        second = None
        if look.differences:
            console.note(f"{len(look.differences)} do not agree; looking again in {CONFIRM_AFTER_MS // 1000} s")
            time.sleep(CONFIRM_AFTER_MS / 1000)
            with here.read() as session:
                second = take_a_look(session, redis, now_ms(), since_ms)

        def store(session: Any, _actor: str) -> Any:
            row = reconciliations.begin(session, look, began, since_ms)
            return row if second is None else reconciliations.finish(session, row.id, second, now_ms())

        row = here.change(store, publish=False)
        found = reconciliations.told(row)
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in row.compared.items())
    lines = [f"{one.kind}: {one.sentence}" for one in found] or [f"no difference ({counts})"]
    console.show(
        {"reconciliation": reconciliation_document(row)}, [f"compared at {moment(row.ended_at_ms)} UTC", *lines]
    )
    if found:
        click.get_current_context().exit(1)
