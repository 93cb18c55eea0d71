"""What a stage's processes tell their node daemon: timed events, kept in a file and announced by a datagram.

The file is the truth, so nothing is lost while the daemon is away; the datagram only says "look", so that it is told at
once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

EVENTS_VARIABLE = "HYDRANT_STAGE_EVENTS"
"""Path of the stage's events file, one JSON object a line: {"event": ..., "at_ms": ...}."""

SIGNAL_VARIABLE = "HYDRANT_NODED_SIGNALS"
"""Path of the node daemon's datagram socket; a datagram holds the stage id."""

STAGE_VARIABLE = "HYDRANT_STAGE"
"""The stage id."""


def emit(event: str, **details: object) -> None:
    """Record that `event` happened now and wake the node daemon; nothing in an SGLang that is no stage of Hydrant's."""
    path = os.environ.get(EVENTS_VARIABLE)
    if not path:
        return
    line = json.dumps({"event": event, "at_ms": time.time_ns() // 1_000_000, **details}) + "\n"
    # One small write to a file opened for appending does not mix with those of the stage's other processes.
    with Path(path).open("a") as events:
        events.write(line)
    announce()


def announce() -> None:
    """Send the wake-up datagram. Whatever keeps it from arriving: the daemon looks at the file in a while anyway."""
    path = os.environ.get(SIGNAL_VARIABLE)
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        # The daemon is away, its queue is full (EAGAIN), or the kernel has no buffer (ENOBUFS).
        with contextlib.suppress(OSError):
            sender.sendto(os.environ.get(STAGE_VARIABLE, "").encode(), path)
