"""Nodes whose engines are stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_node import EngineNode
from support.safetensors_writer import write_model
from support.stand_in_node import LAYERS, running_node


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model directory."""
    return write_model(tmp_path / "model", tied=True, layers=LAYERS)


@pytest.fixture
def node() -> Iterator[EngineNode]:
    """A noded of the test's own."""
    with running_node() as node:
        yield node


@pytest.fixture(scope="module")
def idle_node() -> Iterator[EngineNode]:
    """A noded for tests that change nothing."""
    with running_node() as node:
        yield node
