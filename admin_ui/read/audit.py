"""Entries of the audit log as people read them: names for ids, and units for numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from admin_ui.formats import dollars, duration, number, per_million, size, when
from registry.models import AdminUser, ApiKey, Audit, ManagementToken, Model, Tenant

NAMED: Mapping[str, tuple[InstrumentedAttribute[str], InstrumentedAttribute[str]]] = {
    "mod": (Model.id, Model.name),
    "ten": (Tenant.id, Tenant.name),
    "key": (ApiKey.id, ApiKey.name),
    "adm": (AdminUser.id, AdminUser.email),
    "tok": (ManagementToken.id, ManagementToken.name),
}
"""What an id's prefix says it is of."""

TOKEN_PRICES = frozenset({"input_nusd", "cached_input_nusd", "output_nusd"})
UNITS = ("_nusd", "_bytes", "_ms", "_s", "_id")


@dataclass(frozen=True, slots=True)
class Line:
    """An entry: its subject by name (None where it has none that is known), and its details as (label, value)."""

    entry: Audit
    name: str | None
    detail: tuple[tuple[str, str], ...]


def audit_lines(session: Session, entries: Sequence[Audit]) -> list[Line]:
    """The entries in their order, with the names that their ids have now; of deleted things too."""
    mentioned = chain.from_iterable((entry.subject, *entry.detail.values()) for entry in entries)
    names = subject_names(session, (value for value in mentioned if isinstance(value, str)))
    return [Line(entry, names.get(entry.subject), _detail(entry, names)) for entry in entries]


def subject_names(session: Session, values: Iterable[str]) -> dict[str, str]:
    """Id -> name, of those of the values that are ids of something that has a name."""
    ids: dict[str, set[str]] = {}
    for value in values:
        prefix = value.partition("_")[0]
        if prefix in NAMED:
            ids.setdefault(prefix, set()).add(value)
    names: dict[str, str] = {}
    for prefix, wanted in ids.items():
        id_, name = NAMED[prefix]
        for found, called in session.execute(select(id_, name).where(id_.in_(sorted(wanted)))):
            names[found] = called
    return names


def _detail(entry: Audit, names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    # Of something new, what is not set says nothing; of a change, it is what was changed.
    new = entry.action.endswith((".create", ".register"))
    return tuple(
        (_label(field), _value(field, value, names))
        for field, value in entry.detail.items()
        if not (new and (value is None or value is False or value in ("", [], {})))
    )


def _label(field: str) -> str:
    unit = next((unit for unit in UNITS if field.endswith(unit)), "")
    return field.removesuffix(unit).removesuffix("_at").replace("_", " ")


def _value(field: str, value: Any, names: Mapping[str, str]) -> str:
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _number(field, value)
    if isinstance(value, dict):
        return ", ".join(f"{_label(name)} {_value(name, one, names)}" for name, one in value.items() if one is not None)
    if isinstance(value, list):
        return "all" if value == ["*"] else ", ".join(_value("", one, names) for one in value)
    return names.get(value, value) if isinstance(value, str) else str(value)


def _number(field: str, value: int) -> str:
    if field in TOKEN_PRICES:
        return f"{per_million(value)} / M tokens"
    if field.endswith("_nusd"):
        return dollars(value)
    if field.endswith("_bytes"):
        return size(value)
    if field.endswith("_at_ms") or field == "from_ms":
        return when(value)
    if field.endswith("_ms"):
        return duration(value)
    return duration(value * 1000) if field.endswith("_s") else number(value)
