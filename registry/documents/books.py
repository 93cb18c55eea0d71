"""Invoices by month, and whether the books agree."""

from typing_extensions import TypedDict

from registry.models import Reconciliation
from registry.ops.reconciliations import told


class InvoicePriceDocument(TypedDict):
    """The price that a line was charged by: nano-dollars a token and a request."""

    input_nusd: int
    cached_input_nusd: int
    output_nusd: int
    request_nusd: int


class UsageLineDocument(TypedDict):
    """Attempts settled in the month, by model and price."""

    model: str
    price_id: str | None
    price: InvoicePriceDocument | None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    amount_nusd: int


class ColdStartLineDocument(TypedDict):
    """Charges for cold starts, by model and price; `gpu_us`: the tenant's share of their device time."""

    model: str
    price_id: str
    cold_starts: int
    waited_requests: int
    gpu_us: int
    amount_nusd: int


class EntryLineDocument(TypedDict):
    """One entry of the ledger."""

    at_ms: int
    amount_nusd: int
    attempt_id: str | None
    reason: str | None
    author: str | None


class InvoiceTotalsDocument(TypedDict):
    """Sums of the sections."""

    usage: int
    cold_starts: int
    corrections: int
    credits: int
    adjustments: int


class InvoiceDocument(TypedDict):
    """A tenant's ledger of one month (UTC). A charge is negative: opening balance and sections add to the closing one.

    `number` names it for ever. `state`: `so far`, `closing` (over, and about to be stored) or `closed`; a closed one
    never changes.
    """

    number: str
    tenant_id: str
    tenant: str
    month: str
    zone: str
    from_ms: int
    until_ms: int
    state: str
    as_of_ms: int
    opening_nusd: int
    usage: list[UsageLineDocument]
    cold_starts: list[ColdStartLineDocument]
    corrections: list[EntryLineDocument]
    credits: list[EntryLineDocument]
    adjustments: list[EntryLineDocument]
    totals_nusd: InvoiceTotalsDocument
    closing_nusd: int


class DifferenceDocument(TypedDict):
    """Something on which two sides of the books do not agree. `subject`: an attempt, tenant or cold start."""

    kind: str
    subject: str
    mark: str
    sentence: str


class ReconciliationDocument(TypedDict):
    """One comparison of gateways' events, usage, ledger, balances and reservations; `since_ms`: of newer rows only."""

    at_ms: int | None
    since_ms: int | None
    compared: dict[str, int]
    differences: list[DifferenceDocument]


def reconciliation_document(row: Reconciliation) -> ReconciliationDocument:
    """A comparison that is complete."""
    return {
        "at_ms": row.ended_at_ms,
        "since_ms": row.since_ms,
        "compared": row.compared,
        "differences": [
            {"kind": one.kind, "subject": one.subject, "mark": one.mark, "sentence": one.sentence} for one in told(row)
        ],
    }
