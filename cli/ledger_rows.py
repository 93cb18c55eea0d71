"""Ledger entries as documents and as a table."""

from collections.abc import Sequence
from typing import Any

from cli.console import table
from cli.units import moment
from registry.models import LedgerEntry
from registry.ops.money import format_dollars


def ledger_document(entry: LedgerEntry) -> dict[str, Any]:
    """One entry as JSON."""
    return {
        "id": entry.id,
        "at_ms": entry.at_ms,
        "tenant_id": entry.tenant_id,
        "kind": entry.kind,
        "amount_nusd": entry.amount_nusd,
        "amount_usd": format_dollars(entry.amount_nusd),
        "attempt_id": entry.attempt_id,
        "cold_start_id": entry.cold_start_id,
        "reason": entry.reason,
        "author": entry.author,
    }


def ledger_table(documents: Sequence[dict[str, Any]]) -> list[str]:
    """Entries under headings."""
    if not documents:
        return ["no ledger entry yet"]
    rows = [
        (moment(d["at_ms"]), d["kind"], d["amount_usd"], d["author"], d["reason"] or d["attempt_id"]) for d in documents
    ]
    return table(("WHEN (UTC)", "KIND", "AMOUNT $", "BY", "FOR"), rows, right="00100")
