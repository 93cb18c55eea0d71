"""API keys: made once, shown once, stored as a digest."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.ids import new_id, now_ms
from registry.key_parameters import checked_ceilings, checked_defaults
from registry.models import ApiKey
from registry.ops import audit, budgets, checks, tenants
from registry.ops.models import resolve_names
from registry.snapshot import generate_key, key_digest


def create_key(
    session: Session,
    actor: str,
    pepper: str,
    *,
    tenant_id: str,
    name: str,
    models: Sequence[str] = ("*",),
    expires_at_ms: int | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    parallel: int | None = None,
    sse_ping: bool = True,
    defaults: Mapping[str, object] = MappingProxyType({}),
    ceilings: Mapping[str, object] = MappingProxyType({}),
) -> tuple[ApiKey, str]:
    """A new key of a tenant, and its plaintext, which can never be had again.

    `models` are names or aliases of models (kept as model names), or "*" for all, present and future. `defaults` and
    `ceilings` are of requests' parameters (registry.key_parameters).
    """
    tenant = tenants.get_tenant(session, tenant_id)
    created_at_ms = now_ms()
    if expires_at_ms is not None and checks.moment("expires_at_ms", expires_at_ms) <= created_at_ms:
        raise InvalidError("expires_at_ms must lie in the future", "expires_at_ms")
    plaintext, prefix = generate_key()
    key = ApiKey(
        id=new_id("key"),
        tenant_id=tenant.id,
        name=checks.text("name", name),
        prefix=prefix,
        digest=key_digest(pepper, plaintext),
        models=_permitted(session, models),
        rpm=checks.limit("rpm", rpm),
        tpm=checks.limit("tpm", tpm),
        parallel=checks.limit("parallel", parallel),
        sse_ping=sse_ping,
        defaults=checked_defaults(defaults),
        ceilings=checked_ceilings(ceilings),
        created_at_ms=created_at_ms,
        expires_at_ms=expires_at_ms,
    )
    session.add(key)
    session.flush()
    audit.record(
        session,
        actor,
        "key.create",
        key.id,
        tenant_id=tenant.id,
        name=key.name,
        prefix=prefix,
        models=key.models,
        defaults=key.defaults,
        ceilings=key.ceilings,
    )
    return key, plaintext


def get_key(session: Session, key_id: str) -> ApiKey:
    """The key with this id. Raises NotFoundError."""
    key = session.get(ApiKey, key_id)
    if key is None:
        raise NotFoundError(f"there is no key {key_id}", "key_id")
    return key


def list_keys(session: Session, tenant_id: str | None = None) -> Sequence[ApiKey]:
    """Keys, newest first, of one tenant or of all; revoked and expired ones too."""
    query = select(ApiKey).order_by(ApiKey.id.desc())
    if tenant_id is not None:
        query = query.where(ApiKey.tenant_id == tenant_id)
    return session.scalars(query).all()


def revoke_key(session: Session, actor: str, key_id: str) -> ApiKey:
    """End a key for ever. Revoking again changes nothing."""
    key = get_key(session, key_id)
    if key.revoked_at_ms is None:
        key.revoked_at_ms = now_ms()
        audit.record(session, actor, "key.revoke", key.id, prefix=key.prefix)
    return key


def rotate_key(session: Session, actor: str, pepper: str, key_id: str, *, overlap_s: int = 0) -> tuple[ApiKey, str]:
    """A new key that may do what the old one may, with the same budgets (what it spends is counted anew); the old one
    ends now, or in `overlap_s` seconds."""
    old = get_key(session, key_id)
    at_ms = now_ms()
    checks.integer("overlap_s", overlap_s, high=90 * 24 * 3600)
    if old.revoked_at_ms is not None or (old.expires_at_ms is not None and old.expires_at_ms <= at_ms):
        raise ConflictError(f"key {old.id} has ended already; create a new key instead", "key_id")
    plaintext, prefix = generate_key()
    new = ApiKey(
        id=new_id("key"),
        tenant_id=old.tenant_id,
        name=old.name,
        prefix=prefix,
        digest=key_digest(pepper, plaintext),
        models=list(old.models),
        rpm=old.rpm,
        tpm=old.tpm,
        parallel=old.parallel,
        sse_ping=old.sse_ping,
        defaults=dict(old.defaults),
        ceilings=dict(old.ceilings),
        created_at_ms=at_ms,
        expires_at_ms=old.expires_at_ms,
    )
    session.add(new)
    if overlap_s == 0:
        old.revoked_at_ms = at_ms
    else:
        end_ms = at_ms + overlap_s * 1000
        old.expires_at_ms = end_ms if old.expires_at_ms is None else min(end_ms, old.expires_at_ms)
    session.flush()
    budgets.copy_budgets(session, old.id, new.id, at_ms)
    audit.record(session, actor, "key.rotate", old.id, new_key_id=new.id, prefix=prefix, overlap_s=overlap_s)
    return new, plaintext


def _permitted(session: Session, models: Sequence[str]) -> list[str]:
    if isinstance(models, str) or not models:
        raise InvalidError('models must be a list of model names, or ["*"] for all', "models")
    if "*" in models:
        return ["*"]
    return sorted({model.name for name in models for model in resolve_names(session, name)})
