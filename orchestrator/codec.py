"""Frozen records to plain JSON and back, so that a plan can be stored in SQL and shown in a page."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints


class Record:
    """Base of the frozen dataclasses of this package: `to_json()` and `from_json()` are each other's inverse.

    Fields may be `int`, `str`, `bool`, `None`, enums of strings, other records, `tuple[X, ...]`, `frozenset[str]`
    and `Mapping[str, int | str]`. A stored record may lack fields that have a default and may carry fields that this
    version does not know, so that rows written by another version can still be read.
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """This record as a dict of plain JSON values."""
        return {field.name: _encode(getattr(self, field.name)) for field in fields(self) if field.init}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The record that `to_json()` wrote as `data`; ValueError names the field that does not fit."""
        record: Self = _decode_record(cls, data, cls.__name__)
        return record


def _encode(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _decode_record(cls: Any, data: object, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object, got {type(data).__name__}")
    values: dict[str, Any] = {}
    hints = _hints(cls)
    for field in fields(cls):
        if not field.init:
            continue
        if field.name in data:
            values[field.name] = _decode(hints[field.name], data[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where}.{field.name}: missing")
    return cls(**values)


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
        return _decode(inner, value, where)
    if origin in (tuple, frozenset):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {type(value).__name__}")
        inner = get_args(hint)[0]
        return origin(_decode(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        return _decode_facts(value, where)
    if issubclass(hint, Record):
        return _decode_record(hint, value, where)
    if issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            known = ", ".join(str(member.value) for member in hint)
            raise ValueError(f"{where}: {value!r} is not one of {known}") from None
    if type(value) is not hint:
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _decode_facts(value: Any, where: str) -> dict[str, int | str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object, got {type(value).__name__}")
    for key, item in value.items():
        if type(key) is not str or type(item) not in (int, str):
            raise ValueError(f"{where}.{key}: expected an integer or a string, got {item!r}")
    return dict(value)
