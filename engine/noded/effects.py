"""The effects of docs/interfaces.md, section 7, parsed strictly; `prefetch` is in engine.weights.spec."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.flags import BadSettings, Settings

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ADDRESS = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}:[0-9]{1,5}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_WORLD = 64


class EffectError(ValueError):
    """The effect is malformed; the message names the field."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A runtime becomes this stage's engine. `layers`: how many each rank has; `memory_bytes` on the device."""

    group_id: str
    version: int
    stage_id: str
    device: int
    rank: int
    world: int
    layers: tuple[int, ...]
    dist_address: str | None
    port: int
    api_key: str
    model_name: str
    memory_bytes: int
    settings: Settings


@dataclass(frozen=True, slots=True)
class Stop:
    """The stage's processes end, after `grace_s` seconds by force. Without a stage: the whole group."""

    group_id: str
    version: int
    stage_id: str | None
    grace_s: float


@dataclass(frozen=True, slots=True)
class Rate:
    """A stage's fetch takes at most `rate_bps` bytes/s from now on; None: no cap of its own."""

    group_id: str
    version: int
    stage_id: str
    rate_bps: int | None


@dataclass(frozen=True, slots=True)
class Evict:
    """These tensors (None: all) need not be kept, unless a stage uses them."""

    digests: tuple[str, ...] | None


def parse(obj: object) -> Launch | Stop | Rate | Evict:
    """An effect other than `prefetch`, from decoded JSON. Raises EffectError."""
    if not isinstance(obj, dict):
        raise EffectError("expected a JSON object")
    if obj.get("v") != 1:
        raise EffectError("v: this node understands version 1 only")
    parsers: dict[str, Callable[[dict[str, Any]], Launch | Stop | Rate | Evict]]
    parsers = {"launch": _launch, "stop": _stop, "rate": _rate, "evict": _evict}
    parser = parsers.get(str(obj.get("kind")))
    if parser is None:
        raise EffectError(f"kind: expected one of prefetch, {', '.join(parsers)}")
    return parser(obj)


def _launch(obj: dict[str, Any]) -> Launch:
    world = _integer(obj, "world", 1, MAX_WORLD)
    layers = obj.get("layers")
    if not isinstance(layers, list) or len(layers) != world or not all(_is_integer(n) and n > 0 for n in layers):
        raise EffectError(f"layers: expected {world} positive numbers, one a rank")
    dist_address = obj.get("dist_address")
    if world > 1 and not (isinstance(dist_address, str) and _ADDRESS.fullmatch(dist_address)):
        raise EffectError("dist_address: expected HOST:PORT, where the ranks meet")
    api_key = _text(obj, "api_key")
    if len(api_key) < 16:
        raise EffectError("api_key: expected at least 16 characters")
    settings = obj.get("settings", {})
    if not isinstance(settings, dict):
        raise EffectError("settings: expected an object")
    try:
        parsed = Settings.from_json(settings)
    except BadSettings as error:
        raise EffectError(str(error)) from None
    return Launch(
        group_id=_identifier(obj, "group_id"),
        version=_integer(obj, "version", 0),
        stage_id=_identifier(obj, "stage_id"),
        device=_integer(obj, "device", 0, 1023),
        rank=_integer(obj, "rank", 0, world - 1),
        world=world,
        layers=tuple(layers),
        dist_address=dist_address if world > 1 else None,
        port=_integer(obj, "port", 1024, 65535),
        api_key=api_key,
        model_name=_text(obj, "model_name"),
        memory_bytes=_integer(obj, "memory_bytes", 1),
        settings=parsed,
    )


def _stop(obj: dict[str, Any]) -> Stop:
    grace = obj.get("grace_s", 5)
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= 600:
        raise EffectError("grace_s: expected 0 to 600 seconds")
    stage_id = None if obj.get("stage_id") is None else _identifier(obj, "stage_id")
    return Stop(_identifier(obj, "group_id"), _integer(obj, "version", 0), stage_id, float(grace))


def _rate(obj: dict[str, Any]) -> Rate:
    rate = None if obj.get("rate_bps") is None else _integer(obj, "rate_bps", 1)
    return Rate(_identifier(obj, "group_id"), _integer(obj, "version", 0), _identifier(obj, "stage_id"), rate)


def _evict(obj: dict[str, Any]) -> Evict:
    digests = obj.get("digests")
    if digests is None:
        return Evict(None)
    if not isinstance(digests, list) or not all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in digests):
        raise EffectError("digests: expected SHA-256 digests, or null for all")
    return Evict(tuple(digests))


def _text(obj: dict[str, Any], name: str) -> str:
    value = obj.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable() or value.startswith("-"):
        raise EffectError(f"{name}: expected a printable text of at most 256 characters")
    return value


def _identifier(obj: dict[str, Any], name: str) -> str:
    value = obj.get(name)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise EffectError(f"{name}: may hold letters, digits, '_', '-' and '.', at most 128")
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(obj: dict[str, Any], name: str, least: int, most: int = 2**63 - 1) -> int:
    value = obj.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise EffectError(
            f"{name}: expected an integer of at least {least}" + (f", at most {most}" * (most < 2**63 - 1))
        )
    return value
