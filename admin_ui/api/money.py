"""Usage, the ledger, and the audit log: what happened, for programs that account for it."""

from dataclasses import replace

from flask import Response
from typing_extensions import TypedDict

from admin_ui.api.management import Moment, Offset, Page, Text, api
from admin_ui.api.models import find_model
from admin_ui.api.operation import Query
from admin_ui.database import db
from admin_ui.downloads import csv_download
from admin_ui.permissions import Permission
from registry.documents.access import AuditDocument, audit_document
from registry.documents.costs import TenantWaitsDocument, tenant_waits_document
from registry.documents.money import (
    LedgerDocument,
    TotalsDocument,
    UsageDocument,
    ledger_document,
    totals_document,
    usage_document,
)
from registry.ops import audit, tenants
from registry.ops.cost_queries import tenant_waits
from registry.ops.usage import (
    UsageFilter,
    ledger_csv,
    list_ledger,
    list_usage,
    usage_by_model,
    usage_csv,
    usage_totals,
)


class UsageRows(TypedDict):
    """Attempts, the latest first; `next_offset` is null on the last page."""

    usage: list[UsageDocument]
    next_offset: int | None


class Totals(TypedDict):
    """Sums over all, and for each model's name."""

    totals: TotalsDocument
    by_model: dict[str, TotalsDocument]


class Ledger(TypedDict):
    """Entries, the latest first; `next_before` is null on the last page."""

    ledger: list[LedgerDocument]
    next_before: int | None


class AuditLog(TypedDict):
    """Entries, the latest first; `next_before` is null on the last page."""

    audit: list[AuditDocument]
    next_before: int | None


class ColdStartShares(TypedDict):
    """Shares of cold starts by tenant and model, the dearest first."""

    cold_starts: list[TenantWaitsDocument]


class SharesQuery(Query):
    """Of a tenant (id or name), a model (name, alias or id, of a deleted one too), and from when until before when."""

    tenant: Text | None = None
    model: Text | None = None
    from_ms: Moment | None = None
    until_ms: Moment | None = None

    def filter(self) -> UsageFilter:
        """The same for the registry. Raises NotFoundError."""
        by_id = self.model is None or self.model.startswith("mod_")
        return UsageFilter(
            tenant_id=tenants.find_tenant(db(), self.tenant).id if self.tenant is not None else None,
            model_id=self.model if by_id or self.model is None else find_model(db(), self.model).id,
            from_ms=self.from_ms,
            until_ms=self.until_ms,
        )


class UsageQuery(SharesQuery):
    """Which attempts: of a tenant, a model and a key (id), by when they ended."""

    key: Text | None = None

    def filter(self) -> UsageFilter:
        return replace(super().filter(), key_id=self.key)


class UsagePage(UsageQuery, Page):
    """A page of them."""

    offset: Offset = 0


class TenantQuery(Query):
    """`tenant` is an id or a name."""

    tenant: Text | None = None

    def tenant_id(self) -> str | None:
        """Its id. Raises NotFoundError."""
        return tenants.find_tenant(db(), self.tenant).id if self.tenant is not None else None


class LedgerPage(TenantQuery, Page):
    """`before` is `next_before` of the page before."""

    before: Moment | None = None


class AuditPage(Page):
    """`subject` is an id that was changed; `before` is `next_before` of the page before."""

    subject: Text | None = None
    before: Moment | None = None


@api.operation(
    "GET", "/usage", Permission.SEE, "Attempts, the latest first", tag="usage",
    query=UsagePage, answer=UsageRows, errors=(404,),
)  # fmt: skip
def list_attempts(query: UsagePage) -> UsageRows:
    # One page more than the registry's largest cannot be asked for: whether there is a next one is a second question.
    rows = list_usage(db(), query.filter(), limit=query.limit, offset=query.offset)
    following = query.offset + query.limit
    more = len(rows) == query.limit and list_usage(db(), query.filter(), limit=1, offset=following)
    return {"usage": [usage_document(row) for row in rows], "next_offset": following if more else None}


@api.operation(
    "GET", "/usage/totals", Permission.SEE, "Sums", tag="usage", query=UsageQuery, answer=Totals, errors=(404,)
)
def usage_sums(query: UsageQuery) -> Totals:
    wanted = query.filter()
    return {
        "totals": totals_document(usage_totals(db(), wanted)),
        "by_model": {name: totals_document(sums) for name, sums in usage_by_model(db(), wanted).items()},
    }


@api.operation(
    "GET", "/usage.csv", Permission.SEE, "Attempts as CSV, the oldest first", tag="usage",
    query=UsageQuery, answer=None, errors=(404,),
)  # fmt: skip
def usage_as_csv(query: UsageQuery) -> Response:
    return csv_download("hydrant-usage", usage_csv(db(), query.filter()))


@api.operation(
    "GET", "/usage/cold-starts", Permission.SEE, "What starts have cost that tenants waited for", tag="usage",
    query=SharesQuery, answer=ColdStartShares, errors=(404,),
)  # fmt: skip
def cold_start_shares(query: SharesQuery) -> ColdStartShares:
    return {"cold_starts": [tenant_waits_document(one) for one in tenant_waits(db(), query.filter())]}


@api.operation(
    "GET", "/ledger", Permission.SEE, "Ledger entries, the latest first", tag="ledger",
    query=LedgerPage, answer=Ledger, errors=(404,),
)  # fmt: skip
def list_entries(query: LedgerPage) -> Ledger:
    rows = list_ledger(db(), tenant_id=query.tenant_id(), before_id=query.before, limit=query.limit)
    return {
        "ledger": [ledger_document(row) for row in rows],
        "next_before": rows[-1].id if len(rows) == query.limit and rows[-1].id > 1 else None,
    }


@api.operation(
    "GET", "/ledger.csv", Permission.SEE, "The ledger as CSV, the oldest first", tag="ledger",
    query=TenantQuery, answer=None, errors=(404,),
)  # fmt: skip
def ledger_as_csv(query: TenantQuery) -> Response:
    return csv_download("hydrant-ledger", ledger_csv(db(), query.tenant_id()))


@api.operation(
    "GET", "/audit", Permission.SEE, "Who changed what, the latest first", tag="audit", query=AuditPage, answer=AuditLog
)
def list_audit(query: AuditPage) -> AuditLog:
    rows = audit.list_entries(db(), subject=query.subject, before_id=query.before, limit=query.limit + 1)
    page = rows[: query.limit]
    return {
        "audit": [audit_document(row) for row in page],
        "next_before": page[-1].id if len(rows) > query.limit else None,
    }
