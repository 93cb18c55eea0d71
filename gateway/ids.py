"""Identifiers that the gateway makes: sortable by time, 26 characters of Crockford's base 32 after the prefix."""

from __future__ import annotations

import os
import re
from functools import lru_cache

from gateway.clock import now_ms

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FROM_BYTE = bytes(ord(_ALPHABET[byte % 32]) for byte in range(256))
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")


def new_id(prefix: str) -> str:
    """`prefix` + 26 characters: 48 bits of milliseconds, then 80 random bits."""
    if not _random:
        _fill()
    return prefix + _time_part(now_ms()) + _random.pop()


# The system is asked for the random parts of many ids at a time. A forked child makes ones of its own.
_random: list[str] = []
_FILL = 64
os.register_at_fork(after_in_child=_random.clear)


def _fill() -> None:
    characters = os.urandom(16 * _FILL).translate(_FROM_BYTE).decode()
    _random.extend(characters[at : at + 16] for at in range(0, len(characters), 16))


@lru_cache(1)
def _time_part(at_ms: int) -> str:
    return "".join(_ALPHABET[at_ms >> shift & 31] for shift in range(45, -1, -5))


def request_id(sent: bytes | None) -> str:
    """The caller's request id when it is short and plain, else a new one."""
    if sent is not None and _SANE_REQUEST_ID.fullmatch(sent):
        return sent.decode()
    return new_id("req_")
