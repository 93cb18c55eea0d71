"""Reads a worker's whole answer, for both lanes: is it finished, and what did it use. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.attempts import Usage
from gateway.stream import read_usage


def finished_usage(answer: bytes) -> Usage:
    """The engine's usage of a whole answer. Raises ValueError for a body that is not a finished completion."""
    try:
        document: Any = orjson.loads(answer)
        reasons = [choice["finish_reason"] for choice in document["choices"]]
        usage = read_usage(document["usage"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("the answer is not a completion") from error
    if any(reason in (None, "abort") for reason in reasons):
        raise ValueError("the answer was not finished")
    return usage
