"""Stages in trouble: lost wake-ups, a warm runtime that dies in a fork, clean-up that fails, strangers, long logs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.engine_node import CONTROL_PYTHON, ROOT, EngineNode
from support.manifest import stop_effect
from support.range_server import RangeServer
from support.stand_in_node import FAKE_STAGE, launch, prefetch, stand_in_warm

from engine.noded import processes

SLEEP = ["sleep", "600"]


def test_readiness_is_found_without_a_wake_up(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="quiet"))
    node.wait_state("stg", "ready")


def test_an_engine_that_says_it_has_loaded_bytes_that_prove_wrong_is_ended(node: EngineNode, model: Path) -> None:
    store = RangeServer(model)
    file = max(model.glob("*.safetensors"))
    store.flips = {(file.name, file.stat().st_size - 1)}
    store.hold_after = {file.name: 0}
    try:
        node.apply(prefetch(model, "stg", source=store.url), launch("stg"))
        node.wait(lambda: {"load_end", "up"} <= node.stage("stg")["marks"].keys(), "the engine")
        store.released.set()
        assert "SHA-256 differs" in node.wait_state("stg", "failed")["reason"]
    finally:
        store.close()
    assert processes.under(node.config.stages_dir) == {}


# --- a warm runtime that dies -----------------------------------------------------------------------------------------


def test_a_fork_whose_answer_is_lost_is_used(node: EngineNode, model: Path) -> None:
    with stand_in_warm(node, failpoint="warm.forked") as warm:
        node.apply(prefetch(model, "stg"), launch("stg"))
        assert len(node.wait_state("stg", "ready")["pids"]) == 1
        assert warm.wait(20) == -signal.SIGKILL
        assert "AlreadyRunning" not in (node.config.stages_dir / "stg" / "log").read_text()


@contextmanager
def warm_that_forks_late(node: EngineNode, seconds: float) -> Iterator[None]:
    """A warm runtime that hangs up, and forks only then."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(node.config.warm_socket))
    listener.listen(8)
    forked: list[subprocess.Popen[bytes]] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = json.loads(connection.recv(4096))
                if "ping" in request:
                    connection.sendall(json.dumps({"pid": os.getpid(), "engine": "x"}).encode() + b"\n")
                    continue
            time.sleep(seconds)
            command = [CONTROL_PYTHON, FAKE_STAGE, "-m", "engine.stage_main", request["stage_dir"]]
            forked.append(subprocess.Popen(command, env=node.environ, cwd=ROOT, start_new_session=True))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        node.wait(lambda: node.client.report()["warm"]["ready"], "the warm runtime")
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for process in forked:
            process.kill()
            process.wait()


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.3])
def test_of_two_starts_the_living_one_is_the_stage(node: EngineNode, model: Path, seconds: float) -> None:
    # A plain start takes longer than a fork: the one that began first may come second to the lock.
    python = node.home / "python"
    python.write_text(python.read_text().replace("exec", "sleep 0.5; exec"))
    with warm_that_forks_late(node, seconds):
        node.apply(prefetch(model, "stg"), launch("stg"))
        node.wait_state("stg", "ready")
        node.wait(lambda: len(node.stage("stg")["pids"]) == 1, "the other one's end")
        assert node.wait_probed("stg")["probe"]["ok"]
        node.apply(stop_effect("grp"))
        node.wait_state("stg", "gone")


# --- clean-up ---------------------------------------------------------------------------------------------------------


def test_a_failed_clean_up_does_not_keep_a_stage(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg"))
    node.wait_state("stg", "ready")
    node.config.logs_dir.touch()
    node.apply(stop_effect("grp"))
    node.wait_state("stg", "gone")
    assert not (node.config.stages_dir / "stg").exists()


def test_an_unreadable_record_leaves_nothing(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="shares"))
    pid = node.wait_state("stg", "ready")["pids"][0]
    shared = Path(f"/dev/shm/hydrant-test-{pid}")
    node.kill_noded()
    assert shared.exists()
    (node.config.stages_dir / "stg" / "record.json").write_text("{")
    node.start_noded()
    node.wait(lambda: processes.under(node.config.stages_dir) == {}, "the orphan's end")
    assert not shared.exists()
    assert list(node.config.temp_dir.iterdir()) == []
    assert list(node.config.stages_dir.iterdir()) == []


# --- strangers --------------------------------------------------------------------------------------------------------


def test_a_stranger_in_a_stages_directory_is_no_engine(node: EngineNode, model: Path) -> None:
    node.apply(prefetch(model, "stg"), launch("stg", name="children"))
    node.wait_state("stg", "ready")
    node.wait(lambda: len(processes.in_directory(node.config.stages_dir / "stg")) == 3, "its children")
    stranger = subprocess.Popen(SLEEP, cwd=node.config.stages_dir / "stg", start_new_session=True)
    try:
        node.kill_noded()
        node.start_noded()
        assert len(node.wait_state("stg", "ready")["pids"]) == 3
        node.kill_noded()
        leader = processes.leader(processes.in_directory(node.config.stages_dir / "stg"))
        assert leader is not None
        os.kill(leader.pid, signal.SIGKILL)
        node.start_noded()
        assert "noded was away" in node.wait_state("stg", "failed")["reason"]
        assert processes.in_directory(node.config.stages_dir / "stg") == [stranger.pid]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
