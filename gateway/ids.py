"""Identifiers that the gateway makes: sortable by time, 26 characters of Crockford's base 32 after the prefix."""

from __future__ import annotations

import os
import re

from gateway.clock import now_ms

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")


def new_id(prefix: str) -> str:
    """`prefix` + 26 characters: 48 bits of milliseconds, then 80 random bits."""
    number = now_ms() << 80 | int.from_bytes(os.urandom(10), "big")
    return prefix + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def request_id(sent: bytes | None) -> str:
    """The caller's request id when it is short and plain, else a new one."""
    if sent is not None and _SANE_REQUEST_ID.fullmatch(sent):
        return sent.decode()
    return new_id("req_")
