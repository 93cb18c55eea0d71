"""Telling a node's own processes from all others."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.noded import processes

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that works in tmp_path/stage and leads a session."""
    (tmp_path / "stage").mkdir()
    process = subprocess.Popen(SLEEP, cwd=tmp_path / "stage", stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_process_is_found_by_where_it_works(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    assert processes.in_directory(tmp_path / "stage") == [sleeper.pid]
    assert processes.under(tmp_path) == {tmp_path / "stage": [sleeper.pid]}
    assert processes.in_directory(tmp_path / "sta") == []
    (tmp_path / "stage").rmdir()
    assert processes.in_directory(tmp_path / "stage") == [sleeper.pid], "also when the directory is gone"


def test_the_leader_is_told_from_its_children(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    found = processes.leader([os.getpid() + 10**6, sleeper.pid])
    assert found == processes.identify(sleeper.pid)
    assert processes.leader([]) is None


def test_a_reused_id_is_another_process(sleeper: subprocess.Popen[bytes]) -> None:
    identity = processes.identify(sleeper.pid)
    assert identity is not None
    assert identity.alive()
    assert not replace(identity, start_ticks=identity.start_ticks - 1).alive()
    assert not replace(identity, boot="an earlier one").alive()


def test_a_zombie_is_no_process(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    identity = processes.identify(sleeper.pid)
    processes.send([sleeper.pid], signal.SIGKILL)
    asyncio.run(processes.wait_for_end([sleeper.pid], 10))
    assert identity is not None
    assert not identity.alive()
    assert processes.in_directory(tmp_path / "stage") == []
    sleeper.wait()
    processes.send([sleeper.pid], signal.SIGKILL)


def test_waiting_for_an_end_is_bounded(sleeper: subprocess.Popen[bytes]) -> None:
    asyncio.run(processes.wait_for_end([sleeper.pid, 2**22 - 1], 0.05))
    assert processes.identify(sleeper.pid) is not None


def test_shared_memory_is_seen() -> None:
    path = processes.SHARED_MEMORY / f"hydrant-test-{uuid.uuid4().hex}"
    try:
        path.write_bytes(b"x" * 4096)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            assert path in processes.shared_memory([os.getpid()])
        assert path not in processes.shared_memory([os.getpid()])
    finally:
        path.unlink(missing_ok=True)
