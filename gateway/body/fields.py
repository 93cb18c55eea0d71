"""Typed fields of a body: the value, or the default's None; each raises `ApiError` 400 that names the field. Pure."""

from __future__ import annotations

from typing import Any

from gateway.errors import invalid_request


def boolean(body: dict[str, Any], name: str, prefix: str = "") -> bool:
    """A switch, false unless it is set."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid_request(f"`{prefix}{name}` must be true or false.", prefix + name)
    return bool(value)


def integer(body: dict[str, Any], name: str, low: int, high: int | None = None) -> int | None:
    """A whole number from `low` to `high`, both included."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise invalid_request(f"`{name}` must be a whole number, {bounds}.", name)
    return value


def number(body: dict[str, Any], name: str, low: float, high: float) -> None:
    """Checks a number from `low` to `high`, both included."""
    value = body.get(name)
    if value is not None and (type(value) not in (int, float) or not low <= value <= high):
        raise invalid_request(f"`{name}` must be a number from {low} to {high}.", name)


def array(body: dict[str, Any], name: str) -> list[Any]:
    """A list, empty unless it is set."""
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise invalid_request(f"`{name}` must be a list.", name)
    return value or []


def texts(body: dict[str, Any], name: str) -> int:
    """How many texts a field holds: a string or a list of token ids is one, a list of them several."""
    value = body.get(name)
    if isinstance(value, str) and value:
        return 1
    if isinstance(value, list) and value:
        if _token_ids(value):
            return 1
        if all(isinstance(item, str) and item for item in value) or all(_token_ids(item) for item in value):
            return len(value)
    raise invalid_request(f"`{name}` must be a non-empty string, list of strings, or list of token ids.", name)


def _token_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)
