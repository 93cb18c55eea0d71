"""Which event loops the tests of this directory run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The client for workers on the gateway's own loop, whose transports refuse more than asyncio's, too."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_gateway_worker_client.py":
        factories["uvloop"] = uvloop.new_event_loop
    return factories
