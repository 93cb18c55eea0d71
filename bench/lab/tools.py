"""The system's tools that a lab is made with, and what is said when it cannot be made."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

PACKAGES = {"ip": "iproute2", "tc": "iproute2", "setpriv": "util-linux"}
TIMEOUT_S = 30.0


class LabError(Exception):
    """Something went wrong in the lab; the message is one line."""


class LabUnavailable(LabError):
    """There can be no lab on this machine; `reason` says what is missing and what to do, in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LabBusy(LabError):
    """A living process has the lab; `pid` is its id, None when it has not written it yet."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"process {pid or '(just started)'} has the lab; there is one a machine: wait for its end")
        self.pid = pid


def check_prerequisites() -> None:
    """Raises LabUnavailable when this user or machine cannot have a lab. Changes nothing."""
    if os.geteuid() != 0:
        raise LabUnavailable("the lab makes network namespaces, which needs root: run this as root")
    for name in PACKAGES:
        tool(name)


@cache
def tool(name: str) -> str:
    """Full path of `ip`, `tc` or `setpriv`. Raises LabUnavailable."""
    # A root shell made by `su` may have the user's PATH, without the system's own directories.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        raise LabUnavailable(f"there is no `{name}` here: apt-get install -y {PACKAGES[name]}")
    return found


def run(name: str, arguments: Sequence[str], lines: Sequence[str] = ()) -> str:
    """Output of one call of a tool, with `lines` at its standard input. Raises LabError with what it complained of."""
    done = subprocess.run(
        [tool(name), *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise LabError(f"{name} {' '.join(arguments)}: {complaint[0]}")
    return done.stdout
