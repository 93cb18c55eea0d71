"""noded on a disk that is full: what runs can still be stopped, what would start is refused with the reason."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.engine_node import EngineNode, short_directory
from support.manifest import stop_effect
from support.stand_in_node import launch, prefetch, stand_in_node
from support.weights_source import until

from engine.client import NodedUnavailable
from engine.noded import api, record, stage
from engine.noded.inventory import find_devices
from engine.noded.node import Node


@pytest.fixture
async def here() -> AsyncIterator[tuple[EngineNode, Node]]:
    """A noded in this process, so that its disk can be filled, and the client's side of it."""
    with short_directory() as home:
        outside = stand_in_node(home)
        outside.config.run_dir.mkdir()
        node = Node(outside.config, find_devices(outside.config))
        signals = await api.listen_for_signals(node, outside.config.signal_socket)
        await node.start()
        runner = await api.serve(api.make_app(node), outside.config.api_socket)
        yield outside, node
        await runner.cleanup()
        signals.close()
        await node.close()
        outside.sweep()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A patch that `fill` uses and that the test may undo."""
    return monkeypatch


def fill(patch: pytest.MonkeyPatch) -> None:
    """From now on nothing can be written."""

    def write_json(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module in (record, stage):
        patch.setattr(module, "write_json", write_json)


@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "stage"])
async def test_a_stage_can_be_stopped(
    here: tuple[EngineNode, Node], model: Path, full: pytest.MonkeyPatch, whole_group: bool
) -> None:
    outside, node = here
    node.apply(prefetch(model, "stg"))
    node.apply(launch("stg"))
    await until(lambda: node.supervisor.stages["stg"].state == "ready")
    fill(full)
    effect = stop_effect("grp", stage=None if whole_group else "stg")
    await asyncio.to_thread(outside.client.apply, effect)
    await until(lambda: node.supervisor.stages["stg"].state == "gone")
    assert node.report()["stages"][0]["pids"] == []
    assert not (node.config.stages_dir / "stg").exists()


async def test_a_start_is_refused_and_can_be_repeated(
    here: tuple[EngineNode, Node], model: Path, full: pytest.MonkeyPatch
) -> None:
    outside, node = here
    node.apply(prefetch(model, "stg"))
    with full.context() as patch:
        fill(patch)
        for effect in (launch("stg"), prefetch(model, "new", "grp_b"), launch("new", "grp_c")):
            with pytest.raises(NodedUnavailable, match="No space left"):
                await asyncio.to_thread(outside.client.apply, effect)
    assert node.supervisor.stages["stg"].launch is None
    await asyncio.to_thread(outside.client.apply, launch("stg"))
    await until(lambda: node.supervisor.stages["stg"].state == "ready")
