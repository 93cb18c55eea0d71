"""A node worker's tasks: each asks its own noded for one thing and sends the answer to the controller. No SQL here."""

from functools import cache
from typing import Any

import structlog

from engine.client import BadEffect, NodedClient, NodedUnavailable, StaleVersion
from registry.settings import load_environment
from tasks.app import app
from tasks.failpoints import reach

log = structlog.get_logger(__name__)


@cache
def noded() -> NodedClient:
    """The noded of this worker's own node."""
    return NodedClient.for_node(load_environment().home)


@app.task(name="node.apply")  # type: ignore[untyped-decorator]
def apply(outbox_id: int, effect: dict[str, Any]) -> None:
    """Hand one effect to noded. When noded is away nothing is answered, and the outbox sends it again."""
    error: str | None = None
    refused = False
    try:
        noded().apply(effect)
    except StaleVersion as stale:
        # The group has moved on since this was sent: nothing is left to do.
        error = str(stale)
    except BadEffect as bad:
        error, refused = str(bad), True
    except NodedUnavailable as away:
        log.warning("noded is away; the effect will be sent again", error=str(away))
        return
    reach("node.applied")
    app.send_task("control.applied", args=[outbox_id, error, refused], queue="control")
