"""Networks of a lab for tests, and how fast bytes go over them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.lab import LabUnavailable, Network
from bench.lab.claim import NAMESPACES, PREFIX

TRANSFER = Path(__file__).with_name("transfer.py")
FORBIDDEN = "Operation not permitted"


@contextmanager
def skipped_where_forbidden() -> Iterator[None]:
    """Skip the test where a lab is not allowed: to other users than root, and in containers without the right to it."""
    try:
        yield
    except LabUnavailable as error:
        if os.geteuid() != 0 or FORBIDDEN in error.reason:
            pytest.skip(error.reason)
        raise


class Transfer:
    """`size` bytes from one host to another over one connection, under way as soon as it is made."""

    def __init__(self, network: Network, sender: str, receiver: str, size: int, port: int) -> None:
        address = network.addresses[receiver]
        log = network.home(receiver) / "transfer.log"
        command = [sys.executable, TRANSFER]
        self._receiver = network.start(receiver, [*command, "receive", address, str(port)], log=log, pipe=True)
        network.start(sender, [*command, "send", address, str(port), str(size)], log=log)

    def mbit(self) -> float:
        """Wait for its end: payload in Mbit/s."""
        printed, _ = self._receiver.communicate(timeout=60)
        measured = json.loads(printed)
        return float(measured["bytes"] * 8 / measured["seconds"] / 1e6)


def lab_namespaces() -> list[str]:
    """Names of the lab's namespaces that are there now."""
    return sorted(path.name for path in NAMESPACES.glob(f"{PREFIX}*"))


def machine() -> list[str]:
    """Devices, addresses, routes and rules of the machine's own network."""
    shown = (["-br", "address"], ["route", "show", "table", "all"], ["-6", "route", "show", "table", "all"], ["rule"])
    return [subprocess.run(["ip", *each], capture_output=True, text=True, check=True).stdout for each in shown]
