"""A noded whose engines are small stand-ins for SGLang (fake_stage.py), and the effects to drive it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.engine_node import CONTROL_PYTHON, ROOT, EngineNode, free_ports, short_directory
from support.manifest import API_KEY, launch_effect, prefetch_effect

LAYERS = 2
TENSORS = 1 + 6 * LAYERS + 1
FAKE_STAGE = Path(__file__).resolve().parent / "fake_stage.py"


@contextmanager
def running_node(home: Path | None = None, **settings: Any) -> Iterator[EngineNode]:
    """A running noded whose engines are stand-ins, in `home` or a directory of its own."""
    with short_directory() as made:
        node = stand_in_node(home or made, **settings)
        try:
            node.start_noded()
            yield node
        finally:
            node.close()


def stand_in_node(
    home: Path, name: str = "node-t", ports: tuple[int, int] = (31000, 31099), **settings: Any
) -> EngineNode:
    """The node, not started."""
    python = home / "python"
    python.write_text(f'#!/bin/sh\nexec {CONTROL_PYTHON} {FAKE_STAGE} "$@"\n')
    python.chmod(0o755)
    return EngineNode(home, name, ports, 0, **{"engine_python": python, "store_gb": 0.01, **settings})


@contextmanager
def stand_in_warm(node: EngineNode, *, failpoint: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The node's warm runtime, which forks stand-ins; noded has seen it. With a failpoint it kills itself there."""
    armed = {"HYDRANT_FAILPOINT": failpoint} if failpoint else {}
    command = [CONTROL_PYTHON, FAKE_STAGE.with_name("fake_warm.py"), node.config.warm_socket]
    warm = subprocess.Popen(command, cwd=ROOT, env=node.environ | armed)
    try:
        node.wait(lambda: node.client.report()["warm"]["ready"], "the warm runtime")
        yield warm
    finally:
        warm.kill()
        warm.wait()


def drop_told_key(node: EngineNode, stage: str) -> None:
    """Removes the log in which a stand-in that `dies` has told its key on purpose: all others are searched for keys."""
    log = node.config.logs_dir / f"{stage}.log"
    assert API_KEY in log.read_text()
    log.unlink()


def launch(stage: str, group: str = "grp", name: str = "ok", port: int | None = None, **fields: Any) -> dict[str, Any]:
    """A launch effect for a whole worker whose stand-in behaves as `name` says."""
    effect = launch_effect(group, stage, 0, [LAYERS], port or free_ports(1)[0])
    return {**effect, "model_name": name, **fields}


def prefetch(model: Path, stage: str, group: str = "grp", **fields: Any) -> dict[str, Any]:
    """A prefetch effect for a whole worker."""
    return {**prefetch_effect(model, group, stage, 0, [LAYERS]), **fields}


def pipeline(model: Path, group: str, name: str = "ok") -> list[dict[str, Any]]:
    """Effects for two ranks `<group>_0` and `<group>_1` on the same node."""
    effects = []
    for rank in range(2):
        stage = f"{group}_{rank}"
        effects.append(prefetch_effect(model, group, stage, rank, [1, 1]))
        effect = launch_effect(group, stage, rank, [1, 1], free_ports(1)[0], dist_port=31099)
        effects.append({**effect, "model_name": name})
    return effects
