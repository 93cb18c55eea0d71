"""Tenants: create, change, enable, disable."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.errors import ConflictError, InvalidError, NotFoundError
from registry.ids import new_id, now_ms
from registry.models import Tenant
from registry.ops import audit, checks

SERVICE_CLASSES: Final = ("fast", "standard", "cheap")
"""What they mean is the orchestrator's to say (orchestrator/service_class.py); a test holds the two together."""


class Unchanged:
    """The type of UNCHANGED, which marks a field that an update leaves alone (None means: remove the limit)."""


UNCHANGED: Final = Unchanged()


def create_tenant(
    session: Session,
    actor: str,
    *,
    name: str,
    rpm: int | None = None,
    tpm: int | None = None,
    parallel: int | None = None,
    service_class: str = "standard",
) -> Tenant:
    """A new, enabled tenant with a balance of zero. Limits: requests and tokens a minute, requests at once.

    `service_class`, one of SERVICE_CLASSES: how soon it should be answered by a model that sleeps.
    """
    tenant = Tenant(
        id=new_id("ten"),
        name=checks.text("name", name),
        enabled=True,
        rpm=checks.limit("rpm", rpm),
        tpm=checks.limit("tpm", tpm),
        parallel=checks.limit("parallel", parallel),
        service_class=_service_class(service_class),
        salt=secrets.token_hex(16),
        created_at_ms=now_ms(),
    )
    _store(session, tenant, {})
    limits = {"rpm": rpm, "tpm": tpm, "parallel": parallel, "service_class": service_class}
    audit.record(session, actor, "tenant.create", tenant.id, name=tenant.name, **limits)
    return tenant


def get_tenant(session: Session, tenant_id: str) -> Tenant:
    """The tenant with this id. Raises NotFoundError."""
    tenant = session.get(Tenant, tenant_id)
    if tenant is None:
        raise NotFoundError(f"there is no tenant {tenant_id}", "tenant_id")
    return tenant


def find_tenant(session: Session, id_or_name: str) -> Tenant:
    """The tenant with this id or name. Raises NotFoundError."""
    tenant = session.get(Tenant, id_or_name) or session.scalar(select(Tenant).where(Tenant.name == id_or_name))
    if tenant is None:
        raise NotFoundError(f"there is no tenant {id_or_name!r}", "tenant")
    return tenant


def list_tenants(session: Session, *, after_name: str | None = None, limit: int | None = None) -> Sequence[Tenant]:
    """Tenants by name, all of them; `after_name` (the last name of a page of `limit`) gives the next page."""
    query = select(Tenant).order_by(Tenant.name).limit(limit)
    if after_name is not None:
        query = query.where(Tenant.name > after_name)
    return session.scalars(query).all()


def update_tenant(
    session: Session,
    actor: str,
    tenant_id: str,
    *,
    name: str | Unchanged = UNCHANGED,
    rpm: int | Unchanged | None = UNCHANGED,
    tpm: int | Unchanged | None = UNCHANGED,
    parallel: int | Unchanged | None = UNCHANGED,
    service_class: str | Unchanged = UNCHANGED,
) -> Tenant:
    """Change a name, class or limits; what is not given stays, None removes a limit."""
    tenant = get_tenant(session, tenant_id)
    changes: dict[str, Any] = {}
    if not isinstance(name, Unchanged):
        changes["name"] = checks.text("name", name)
    if not isinstance(service_class, Unchanged):
        changes["service_class"] = _service_class(service_class)
    for field, value in (("rpm", rpm), ("tpm", tpm), ("parallel", parallel)):
        if not isinstance(value, Unchanged):
            changes[field] = checks.limit(field, value)
    _store(session, tenant, changes)
    audit.record(session, actor, "tenant.update", tenant.id, **changes)
    return tenant


def set_enabled(session: Session, actor: str, tenant_id: str, enabled: bool) -> Tenant:
    """Let a tenant in or lock it out; its keys are not touched."""
    tenant = get_tenant(session, tenant_id)
    tenant.enabled = enabled
    audit.record(session, actor, "tenant.enable" if enabled else "tenant.disable", tenant.id)
    return tenant


def _service_class(value: object) -> str:
    if value not in SERVICE_CLASSES:
        raise InvalidError(f"service_class must be one of {', '.join(SERVICE_CLASSES)}", "service_class")
    return str(value)


def _store(session: Session, tenant: Tenant, changes: Mapping[str, Any]) -> None:
    name = changes.get("name", tenant.name)
    try:
        # Changed inside the savepoint: beginning it flushes, and a flush that fails outside ends the whole transaction.
        with session.begin_nested():
            for field, value in changes.items():
                setattr(tenant, field, value)
            session.add(tenant)
    except IntegrityError:
        raise ConflictError(f"there is already a tenant named {name!r}; choose another name", "name") from None
