"""A node worker's tasks: each asks its own noded for one thing and sends the answer to the controller. No SQL here."""

import time
from functools import cache
from typing import Any

import structlog

from engine.client import BadEffect, NodedClient, NodedUnavailable, StaleVersion
from registry.settings import load_environment
from tasks.app import app
from tasks.failpoints import reach

AWAY_S = 8.0
"""So long a noded that is away is asked again: one that was restarted is back in a second or two, and a cold start need
not wait for the outbox to send its effects again. Shorter than the outbox' pause, or messages would gather."""
AGAIN_S = 0.25

log = structlog.get_logger(__name__)


@cache
def noded() -> NodedClient:
    """The noded of this worker's own node."""
    return NodedClient.for_node(load_environment().home)


@app.task(name="node.apply")  # type: ignore[untyped-decorator]
def apply(outbox_id: int, effect: dict[str, Any]) -> None:
    """Hand one effect to noded. When noded stays away nothing is answered, and the outbox sends it again."""
    error: str | None = None
    refused = False
    try:
        _hand_over(effect)
    except StaleVersion as stale:
        # The group has moved on since this was sent: nothing is left to do.
        error = str(stale)
    except BadEffect as bad:
        error, refused = str(bad), True
    except NodedUnavailable as away:
        log.warning("noded stays away; the effect will be sent again", error=str(away))
        return
    reach("node.applied")
    app.send_task("control.applied", args=[outbox_id, error, refused], queue="control")


def _hand_over(effect: dict[str, Any]) -> None:
    """Raises NodedUnavailable when noded was away for `AWAY_S`. To be asked twice changes nothing there."""
    end = time.monotonic() + AWAY_S
    told = False
    while True:
        try:
            noded().apply(effect)
            return
        except NodedUnavailable as away:
            if time.monotonic() > end:
                raise
            if not told:
                log.warning("noded is away; it is asked again", error=str(away))
                told = True
        time.sleep(AGAIN_S)
