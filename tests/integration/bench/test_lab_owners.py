"""What becomes of a lab whose owner ends, in whatever way, and of a second owner."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.labs import lab_namespaces, skipped_where_forbidden

from bench.lab import LabBusy, Network, claim
from bench.lab.claim import RUN_DIR, members
from cli.services import ROOT
from engine.node_config import parse_config

OWNER = """
import signal, subprocess, time
from bench.lab import Network
# As in a shell's foreground; what a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
with Network(["node-1"]) as network:
    home = network.home("node-1")
    started = network.start("node-1", ["sleep", "600"])
    # As an engine is that noded has left behind: of a session of its own, and nobody's child.
    leave = ["sh", "-c", "setsid sleep 600 >$0.log & echo $! >$0", home / "stray"]
    subprocess.run(network.command("node-1", leave), check=True)
    print(started.pid, flush=True)
    time.sleep(600)
"""
STORE_DIR = parse_config({"node": {"name": "node-1"}}, {"HYDRANT_HOME": str(RUN_DIR / "node-1")}).store_dir


class Owner:
    """A process with a lab of one node, in which a child and a stray process run; shared memory of noded's is there."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.child = os.pidfd_open(int(self.process.stdout.readline()))
        self.stray = os.pidfd_open(int((RUN_DIR / "node-1/stray").read_text()))
        STORE_DIR.mkdir()
        (STORE_DIR / "segment").write_bytes(b"weights")

    def end(self, number: signal.Signals) -> int:
        """Signal it and wait for its end; its status."""
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def owner() -> Iterator[Owner]:
    """A living owner."""
    with skipped_where_forbidden(), Network([]):
        """That it can be made here is known now, and nothing is left of others."""
    running = Owner()
    yield running
    running.process.kill()
    running.process.communicate(timeout=20)
    with Network([]):
        """What is left of it is swept."""
    for descriptor in (running.child, running.stray):
        os.close(descriptor)


def has_ended(descriptor: int, within_s: float = 0) -> bool:
    return bool(select.select([descriptor], [], [], within_s)[0])


def left() -> list[str]:
    """Namespaces, directories and shared memory of a lab."""
    directories = [path for path in RUN_DIR.iterdir() if path.is_dir()]
    return [*lab_namespaces(), *map(str, directories), *([str(STORE_DIR)] if STORE_DIR.exists() else [])]


def test_the_lab_of_a_living_owner_is_left_alone(owner: Owner) -> None:
    with pytest.raises(LabBusy, match=f"process {owner.process.pid} has the lab"):
        Network(["node-1"])
    assert "hydlab-node-1" in lab_namespaces()
    assert not has_ended(owner.child)


def test_what_a_killed_owner_leaves_is_swept_by_the_next(owner: Owner) -> None:
    assert owner.end(signal.SIGKILL) == -signal.SIGKILL
    assert has_ended(owner.child, within_s=20), "a process dies with the owner"
    assert not has_ended(owner.stray), "one that left it does not"
    assert {"hydlab-switch", "hydlab-node-1", str(RUN_DIR / "node-1"), str(STORE_DIR)} <= set(left())
    with Network(["another"]) as network:
        assert has_ended(owner.stray)
        assert lab_namespaces() == [f"hydlab-{name}" for name in sorted([*network.addresses, "switch"])]
        assert not STORE_DIR.exists()
    assert left() == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_an_owner_that_is_asked_to_end_leaves_nothing(owner: Owner, number: signal.Signals, status: int) -> None:
    assert owner.end(number) == status
    assert has_ended(owner.child)
    assert has_ended(owner.stray)
    assert left() == []


def test_an_owner_that_forgets_to_close_leaves_nothing() -> None:
    with skipped_where_forbidden(), Network([]):
        """It can be made here."""
    forgetful = 'from bench.lab import Network; network = Network([]); network.start("client", ["sleep", "600"])'
    subprocess.run([sys.executable, "-c", forgetful], cwd=ROOT, check=True, timeout=20)
    assert left() == []


def test_a_signal_while_it_is_removed_takes_effect_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with skipped_where_forbidden():
        network = Network(["node-1"])
    remove_all = claim.remove_all

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        remove_all()

    monkeypatch.setattr(claim, "remove_all", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            network.close()
    finally:
        signal.signal(signal.SIGINT, before)
    assert left() == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "what it did before the lab"


def test_a_failed_start_leaves_nothing_and_gives_the_lab_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with skipped_where_forbidden(), Network([]):
        """It can be made here."""
    monkeypatch.setattr("bench.lab.network.DEVICE", "a-name-that-is-too-long-for-a-device")
    with pytest.raises(Exception, match="cannot make network namespaces here"):
        Network(["node-1"])
    monkeypatch.undo()
    assert left() == []
    with Network(["node-1"]):
        assert "hydlab-node-1" in lab_namespaces()


def test_a_process_that_does_not_end_when_asked_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.lab.processes.END_WITHIN_S", 0.5)
    with skipped_where_forbidden():
        network = Network([])
    with network:
        deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
        started = network.start("client", [sys.executable, "-c", deaf], pipe=True)
        assert started.stdout is not None
        started.stdout.readline()
        assert members([Path("/run/netns/hydlab-client")]) == [started.pid]
    assert started.returncode == -signal.SIGKILL
