"""API keys: made once, shown once, stored as a digest."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.ids import new_id, now_ms
from registry.key_parameters import check_together, checked_ceilings, checked_defaults
from registry.models import ApiKey
from registry.ops import audit, budgets, checks, tenants
from registry.ops.models import resolve_names
from registry.snapshot import generate_key, key_digest, looks_like_key

PREFIX_LENGTH = 8


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
    user_id: str | None = None,
) -> tuple[ApiKey, str]:
    """A new key of a tenant, and its plaintext, which can never be had again.

    `models` are names or aliases of models (kept as model names), or "*" for all, present and future. `defaults` and
    `ceilings` are of requests' parameters (registry.key_parameters). `user_id`, a name of the client's own, says whose
    it is.
    """
    tenant = tenants.get_tenant(session, tenant_id)
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
        user_id=_user(user_id),
        created_at_ms=now_ms(),
        expires_at_ms=checks.end("expires_at_ms", expires_at_ms),
    )
    check_together(key.defaults, key.ceilings)
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
        user_id=key.user_id,
    )
    return key, plaintext


def get_key(session: Session, key_id: str) -> ApiKey:
    """The key with this id. Raises NotFoundError."""
    key = session.get(ApiKey, key_id)
    if key is None:
        raise NotFoundError(f"there is no key {key_id}", "key_id")
    return key


def find_key(session: Session, text: str, pepper: str | None = None) -> ApiKey:
    """The key with this id or public prefix (the part after `hyd-`), or, given the `pepper`, the whole key itself.

    Raises NotFoundError and, for a prefix that several have, ConflictError; neither repeats `text`, which may be a key.
    """
    if text.startswith("key_"):
        return get_key(session, text)
    if pepper is not None and looks_like_key(text):
        found = session.scalars(select(ApiKey).where(ApiKey.digest == key_digest(pepper, text))).all()
    else:
        prefix = text.removeprefix("hyd-")[:PREFIX_LENGTH]
        found = session.scalars(select(ApiKey).where(ApiKey.prefix == prefix)).all()
    if not found:
        raise NotFoundError("no key has this id or prefix; hydrant key list --all shows all of them", "key")
    if len(found) > 1:
        raise ConflictError(f"{len(found)} keys have this prefix; use the id that hydrant key list --all shows", "key")
    return found[0]


def list_keys(
    session: Session,
    tenant_id: str | None = None,
    *,
    user_id: str | None = None,
    live: bool = False,
    before_id: str | None = None,
    limit: int | None = None,
) -> Sequence[ApiKey]:
    """Keys, newest first, of one tenant, of one user or of all; revoked and expired ones too, unless only `live` ones
    are wanted. `before_id` (the last id of a page of `limit`) gives the next page."""
    query = select(ApiKey).order_by(ApiKey.id.desc()).limit(limit)
    if tenant_id is not None:
        query = query.where(ApiKey.tenant_id == tenant_id)
    if user_id is not None:
        query = query.where(ApiKey.user_id == user_id)
    if live:
        query = query.where(not_ended(now_ms()))
    if before_id is not None:
        query = query.where(ApiKey.id < before_id)
    return session.scalars(query).all()


def not_ended(at_ms: int) -> ColumnElement[bool]:
    """Whether a key is neither revoked nor expired."""
    return and_(ApiKey.revoked_at_ms.is_(None), or_(ApiKey.expires_at_ms.is_(None), ApiKey.expires_at_ms > at_ms))


def update_key(session: Session, actor: str, key_id: str, **changes: Any) -> ApiKey:
    """Change any of: name, models, expires_at_ms, rpm, tpm, parallel, sse_ping, defaults, ceilings, user_id. What is
    not given stays; None lifts a limit, or the end. Raises ConflictError for a key that has ended: that is for ever."""
    key = get_key(session, key_id)
    _refuse_ended(key)
    fresh = {field: _changed(session, field, value) for field, value in changes.items()}
    if fresh.keys() & {"defaults", "ceilings"}:
        check_together(fresh.get("defaults", key.defaults), fresh.get("ceilings", key.ceilings))
    for field, value in fresh.items():
        setattr(key, field, value)
    session.flush()
    audit.record(session, actor, "key.update", key.id, **{field: getattr(key, field) for field in changes})
    return key


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
    _refuse_ended(old)
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
        user_id=old.user_id,
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


def _refuse_ended(key: ApiKey) -> None:
    if key.revoked_at_ms is not None or (key.expires_at_ms is not None and key.expires_at_ms <= now_ms()):
        raise ConflictError(f"key {key.id} has ended already; create a new key instead", "key_id")


def _changed(session: Session, field: str, value: Any) -> Any:
    match field:
        case "name":
            return checks.text(field, value)
        case "models":
            return _permitted(session, value)
        case "expires_at_ms":
            return checks.end(field, value)
        case "rpm" | "tpm" | "parallel":
            return checks.limit(field, value)
        case "sse_ping":
            return checks.flag(field, value)
        case "defaults":
            return checked_defaults(value)
        case "ceilings":
            return checked_ceilings(value)
        case "user_id":
            return _user(value)
    raise InvalidError(f"{field} is not a field of a key that can be changed", field)


def _user(value: object) -> str | None:
    return None if value is None else checks.text("user_id", value, limit=200)


def _permitted(session: Session, models: Sequence[str]) -> list[str]:
    if isinstance(models, str) or not models:
        raise InvalidError('models must be a list of model names, or ["*"] for all', "models")
    if "*" in models:
        return ["*"]
    return sorted({model.name for name in models for model in resolve_names(session, name)})
