"""Which of several models that share an alias a request goes to. Pure but for the draw where nothing decides."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

Choice = TypeVar("Choice")

_POINTS = 2**64


def pick(weighted: Sequence[tuple[Choice, int]], affinity: str | None) -> Choice:
    """One of the choices (at least one), in proportion to its weight (at least 1).

    Requests of one `affinity` get the same choice as long as the weights stay: a conversation keeps its prefix cache.
    """
    if len(weighted) == 1:
        return weighted[0][0]
    point = random.randrange(_POINTS) if affinity is None else _point(affinity)  # noqa: S311 - nothing secret
    left = point * sum(weight for _, weight in weighted) // _POINTS
    for choice, weight in weighted:
        left -= weight
        if left < 0:
            return choice
    raise AssertionError("the weights do not add up")


def _point(affinity: str) -> int:
    return int.from_bytes(hashlib.blake2b(affinity.encode(), digest_size=8).digest())
