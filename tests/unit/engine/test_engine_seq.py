"""The number of a report."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.node_config import load_config
from engine.noded.node import Node


def test_a_restarted_noded_counts_on_although_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f'[node]\nname = "n"\nlink_gbps = 1.0\nstore_dir = "{tmp_path}/store"\n[[device]]\nkind = "cpu"\n')
    config = load_config({"HYDRANT_NODE_CONFIG": str(file), "HYDRANT_HOME": str(tmp_path)})
    before = Node(config, []).seq
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    assert Node(config, []).seq >= before
