"""Who may ask, and who may manage: tenants, API keys, management tokens, the audit log."""

from typing import Any

from typing_extensions import TypedDict

from registry.ids import now_ms
from registry.models import ApiKey, Audit, ManagementToken, Tenant
from registry.ops import tokens
from registry.ops.money import format_dollars

# `class` is no name in Python.
_TenantClass = TypedDict("_TenantClass", {"class": str})


class TenantDocument(_TenantClass):
    """A tenant, its limits over all keys, and its class."""

    tenant_id: str
    name: str
    enabled: bool
    rpm: int | None
    tpm: int | None
    parallel: int | None
    created_at_ms: int


class TenantBalanceDocument(TenantDocument):
    """A tenant with its settled balance."""

    balance_nusd: int
    balance_usd: str


class KeyDocument(TypedDict):
    """An API key: what it may do and until when; never the key itself. `state`: live, expired or revoked.

    `defaults` and `ceilings` are of parameters of its requests.
    """

    key_id: str
    prefix: str
    tenant_id: str
    name: str
    models: list[str]
    state: str
    rpm: int | None
    tpm: int | None
    parallel: int | None
    sse_ping: bool
    defaults: dict[str, Any]
    ceilings: dict[str, Any]
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None


class TokenDocument(TypedDict):
    """A management token; never the token itself. `last_used_at_ms` is true to the minute."""

    token_id: str
    prefix: str
    name: str
    role: str
    state: str
    created_by: str
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None
    last_used_at_ms: int | None


class AuditDocument(TypedDict):
    """Who changed what, when."""

    id: int
    at_ms: int
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


def tenant_document(row: Tenant) -> TenantDocument:
    """A tenant without its balance."""
    return {
        "tenant_id": row.id,
        "name": row.name,
        "enabled": row.enabled,
        "class": row.service_class,
        "rpm": row.rpm,
        "tpm": row.tpm,
        "parallel": row.parallel,
        "created_at_ms": row.created_at_ms,
    }


def tenant_balance_document(row: Tenant, balance_nusd: int) -> TenantBalanceDocument:
    """A tenant with its balance."""
    return {
        **tenant_document(row),
        "balance_nusd": balance_nusd,
        "balance_usd": format_dollars(balance_nusd),
    }


def key_document(row: ApiKey) -> KeyDocument:
    """A key as it stands now."""
    if row.revoked_at_ms is not None:
        state = "revoked"
    else:
        state = "expired" if row.expires_at_ms is not None and row.expires_at_ms <= now_ms() else "live"
    return {
        "key_id": row.id,
        "prefix": row.prefix,
        "tenant_id": row.tenant_id,
        "name": row.name,
        "models": list(row.models),
        "state": state,
        "rpm": row.rpm,
        "tpm": row.tpm,
        "parallel": row.parallel,
        "sse_ping": row.sse_ping,
        "defaults": row.defaults,
        "ceilings": row.ceilings,
        "created_at_ms": row.created_at_ms,
        "expires_at_ms": row.expires_at_ms,
        "revoked_at_ms": row.revoked_at_ms,
    }


def token_document(row: ManagementToken) -> TokenDocument:
    """A token as it stands now."""
    return {
        "token_id": row.id,
        "prefix": row.prefix,
        "name": row.name,
        "role": row.role,
        "state": tokens.state_of(row),
        "created_by": row.created_by,
        "created_at_ms": row.created_at_ms,
        "expires_at_ms": row.expires_at_ms,
        "revoked_at_ms": row.revoked_at_ms,
        "last_used_at_ms": row.last_used_at_ms,
    }


def audit_document(row: Audit) -> AuditDocument:
    """An entry of the audit log."""
    return {
        "id": row.id,
        "at_ms": row.at_ms,
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "detail": row.detail,
    }
