"""The stand-in for the lab where there can be no namespaces: it needs no rights, and leaves nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.lab import LinkBytes, PacedNetwork
from bench.lab.node import ROOT


def test_its_processes_end_with_it_and_nothing_is_left() -> None:
    with PacedNetwork(["node-1"]) as network:
        home = network.home("node-1")
        sleeper = network.start("node-1", [sys.executable, "-c", "import time; time.sleep(600)"])
        assert home.is_dir()
        assert sleeper.poll() is None
    assert sleeper.poll() is not None
    assert not home.parent.exists()


def test_a_host_keeps_its_port_and_no_other_has_it() -> None:
    with PacedNetwork(["node-1", "node-2"]) as network:
        assert network.port("node-1", 80) == network.port("node-1", 80)
        assert len({network.port(host, port) for host in ("node-1", "node-2") for port in (80, 81)}) == 4
        with pytest.raises(ValueError, match="no host 'node-3'"):
            network.port("node-3", 80)


def test_it_counts_no_bytes() -> None:
    with PacedNetwork(["node-1"]) as network:
        assert not network.shaped
        assert set(network.counters().values()) == {LinkBytes(0, 0)}


def test_its_processes_die_with_a_killed_owner(tmp_path: Path) -> None:
    code = (
        "import sys, time; from bench.lab import PacedNetwork; network = PacedNetwork(['node-1']);"
        " sleeper = network.start('node-1', [sys.executable, '-c', 'import time; time.sleep(600)']);"
        " print(sleeper.pid, flush=True); time.sleep(600)"
    )
    command, environ = [sys.executable, "-c", code], os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
