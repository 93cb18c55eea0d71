"""The meeting of a pipeline's ranks, without torch's pause.

The first rank opens a TCPStore and the others connect to it. One that comes too early is refused, and torch tries
again only after 0.25 to 0.75 s (its socket's backoff). Here a later rank looks for itself until the store listens.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from engine.sglang_plugin import signals
from engine.sglang_plugin.listening import wait_until_listening

GIVE_UP_S = 60.0
"""After this torch tries for itself, and tells what it sees."""


def wait_for_first_rank(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """AROUND init_distributed_environment, whose callers name its arguments."""
    method, rank = str(kwargs.get("distributed_init_method")), kwargs.get("rank", 0)
    place = urlsplit(method)
    if os.environ.get(signals.EVENTS_VARIABLE) and rank > 0 and place.scheme == "tcp" and place.hostname and place.port:
        with contextlib.suppress(TimeoutError):
            wait_until_listening(place.hostname, place.port, GIVE_UP_S)
    return original(*args, **kwargs)
