"""Invoices by month, and whether the books agree."""

from typing import cast

from flask import Response
from typing_extensions import TypedDict

from admin_ui.api.management import api
from admin_ui.database import db
from admin_ui.downloads import csv_download
from admin_ui.permissions import Permission
from registry.documents.books import (
    InvoiceDocument,
    ReconciliationDocument,
    reconciliation_document,
)
from registry.ids import now_ms
from registry.ops import reconciliations, tenants
from registry.ops.invoices import invoice, months, to_csv


class Months(TypedDict):
    """The months (UTC) of which a tenant has an invoice, the latest first."""

    tenant_id: str
    months: list[str]


class OneInvoice(TypedDict):
    """One invoice."""

    invoice: InvoiceDocument


class LastReconciliation(TypedDict):
    """The last comparison that is complete; null before the first."""

    reconciliation: ReconciliationDocument | None


@api.operation(
    "GET", "/tenants/<tenant>/invoices", Permission.SEE, "The months of a tenant's invoices", tag="invoices",
    answer=Months,
)  # fmt: skip
def list_invoices(tenant: str) -> Months:
    tenant_id = tenants.find_tenant(db(), tenant).id
    return {"tenant_id": tenant_id, "months": months(db(), tenant_id, now_ms())}


@api.operation(
    "GET", "/tenants/<tenant>/invoices/<month>", Permission.SEE, "The invoice of a month, such as 2026-11",
    tag="invoices", answer=OneInvoice,
)  # fmt: skip
def show_invoice(tenant: str, month: str) -> OneInvoice:
    return {"invoice": _invoice(tenant, month)}


@api.operation(
    "GET", "/tenants/<tenant>/invoices/<month>.csv", Permission.SEE, "The same as CSV", tag="invoices", answer=None
)
def invoice_as_csv(tenant: str, month: str) -> Response:
    document = _invoice(tenant, month)
    return csv_download(f"hydrant-invoice-{month}", iter([to_csv(document)]))


@api.operation(
    "GET", "/reconciliation", Permission.SEE,
    "The last comparison of gateways' events, usage, ledger, balances and reservations", tag="ledger",
    answer=LastReconciliation,
)  # fmt: skip
def show_reconciliation() -> LastReconciliation:
    row = reconciliations.last(db())
    return {"reconciliation": None if row is None else reconciliation_document(row)}


def _invoice(tenant: str, month: str) -> InvoiceDocument:
    # A stored invoice is the JSON that was made of it then; a test holds it against the type.
    return cast(InvoiceDocument, invoice(db(), tenants.find_tenant(db(), tenant).id, month))
