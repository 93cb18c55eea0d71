"""A node worker's tasks: each asks its own noded for one thing and sends the answer to the controller. No SQL here."""

import threading
from functools import cache
from typing import Any

import structlog

from engine.client import BadEffect, NodedClient, NodedUnavailable, StaleVersion
from registry.settings import load_environment
from tasks.app import app
from tasks.failpoints import reach

log = structlog.get_logger(__name__)

_probing: set[str] = set()
_probing_lock = threading.Lock()


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


@app.task(name="node.probe")  # type: ignore[untyped-decorator]
def probe(outbox_id: int, group_id: str) -> None:
    """One token through the group."""
    with _probing_lock:
        if group_id in _probing:
            return  # asked again while it runs; the answer to the first settles both
        _probing.add(group_id)
    try:
        answer = noded().probe(group_id)
    except (BadEffect, StaleVersion) as bad:
        answer = {"ok": False, "error": str(bad)}
    except NodedUnavailable as away:
        log.warning("noded is away; the probe will be sent again", error=str(away))
        return
    finally:
        with _probing_lock:
            _probing.discard(group_id)
    reach("node.probed")
    app.send_task("control.probed", args=[outbox_id, group_id, answer["ok"], answer.get("error")], queue="control")
