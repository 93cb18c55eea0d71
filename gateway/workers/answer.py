"""Reads a worker's whole answer, for both lanes: is it finished, and what did it use. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.accounting.attempts import Usage
from gateway.body.parsing import Endpoint
from gateway.workers.stream import read_responses_usage, read_usage

_USAGE = b'"usage":'


def whole_usage(endpoint: Endpoint, answer: bytes) -> Usage:
    """The engine's usage of a whole answer. Raises ValueError for a body that is not a finished one."""
    if endpoint is Endpoint.EMBEDDINGS:
        return _of_embeddings(answer)
    if endpoint is Endpoint.RESPONSES:
        return _of_response(answer)
    return finished_usage(answer)


def finished_usage(answer: bytes) -> Usage:
    """The engine's usage of a completion. Raises ValueError for a body that is not a finished one."""
    try:
        document: Any = orjson.loads(answer)
        reasons = [choice["finish_reason"] for choice in document["choices"]]
        usage = read_usage(document["usage"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("the answer is not a completion") from error
    if any(reason in (None, "abort") for reason in reasons):
        raise ValueError("the answer was not finished")
    return usage


def _of_response(answer: bytes) -> Usage:
    try:
        document: Any = orjson.loads(answer)
        status = document["status"]
        usage = read_responses_usage(document["usage"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("the answer is not a response") from error
    if status not in ("completed", "incomplete"):
        raise ValueError("the answer was not finished")
    return usage


def _of_embeddings(answer: bytes) -> Usage:
    """Its usage stands last; the vectors before it, possibly megabytes of digits, are not parsed."""
    head, found, tail = answer.rstrip().rpartition(_USAGE)
    if not found or not head.startswith(b'{"data":[') or not tail.endswith(b"}}"):
        raise ValueError("the answer holds no embeddings")
    try:
        return read_usage(orjson.loads(tail[:-1]))
    except (ValueError, TypeError) as error:
        raise ValueError("the answer holds no embeddings") from error
