"""A later rank connects when the first one listens, and not before."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from engine.sglang_plugin import rendezvous, signals


@pytest.fixture(autouse=True)
def stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a stage."""
    monkeypatch.setenv(signals.EVENTS_VARIABLE, "/events")


@pytest.fixture
def port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def join(port: int, rank: int) -> threading.Thread:
    """A rank that joins in a thread, and ends when it has."""
    method = f"tcp://127.0.0.1:{port}"

    def run() -> None:
        rendezvous.wait_for_first_rank(lambda **_: None, rank=rank, distributed_init_method=method)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_later_rank_waits_until_the_first_listens(port: int) -> None:
    joining = join(port, rank=1)
    joining.join(0.2)
    assert joining.is_alive()
    with socket.create_server(("127.0.0.1", port)):
        joining.join(10)
    assert not joining.is_alive()


def test_the_first_rank_waits_for_nobody(port: int) -> None:
    joining = join(port, rank=0)
    joining.join(10)
    assert not joining.is_alive()


def test_it_gives_up_for_torch_to_tell(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "GIVE_UP_S", 0.1)
    joining = join(port, rank=1)
    joining.join(10)
    assert not joining.is_alive()


@pytest.mark.parametrize("arguments", [{}, {"rank": 1, "distributed_init_method": "env://"}])
def test_what_it_does_not_know_goes_on_unchanged(arguments: dict[str, Any]) -> None:
    assert rendezvous.wait_for_first_rank(lambda **given: given, **arguments) == arguments


def test_outside_a_stage_it_steps_aside(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(signals.EVENTS_VARIABLE)
    joining = join(port, rank=1)
    joining.join(10)
    assert not joining.is_alive()
