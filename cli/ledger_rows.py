"""Ledger entries as a table."""

from collections.abc import Sequence

from cli.console import table
from cli.units import moment
from registry.documents.money import LedgerDocument
from registry.ops.money import usd


def ledger_table(documents: Sequence[LedgerDocument]) -> list[str]:
    """Entries under headings."""
    if not documents:
        return ["no ledger entry yet"]
    rows = [
        (moment(d["at_ms"]), d["kind"], usd(d["amount_nusd"]), d["author"], d["reason"] or d["attempt_id"])
        for d in documents
    ]
    return table(("WHEN (UTC)", "KIND", "AMOUNT", "BY", "FOR"), rows, right="00.")
