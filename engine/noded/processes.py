"""Engine processes as Linux shows them. A process is a stage's when it works in the stage's directory and either is of
the session that the stage's first process leads, or holds the stage's lock open.

The working directory is a mark that a fork keeps, that no engine changes, and that can be read without trusting a
record: an environment variable set after a fork is not visible in /proc, and a process id alone is reused. Alone it is
not enough: a person's shell may stand there too. The first process writes its id into the lock, so that its session is
known without a record, and after its end; a child that left the session still has the lock from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_PROC = Path("/proc")
_ZOMBIE = ("Z", "X")


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for certain: its id, its start in ticks since boot, which tells a reused id apart, and the boot."""

    pid: int
    start_ticks: int
    boot: str = ""

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return identify(self.pid) == self


def identify(pid: int) -> Identity | None:
    """The process with this id, None when there is none (a zombie is none)."""
    stat = _stat(pid)
    return None if stat is None else Identity(pid, int(stat[19]), boot_id())


@cache
def boot_id() -> str:
    """Identity of this boot of the machine: process identities of another one mean nothing."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def under(directory: Path) -> dict[Path, list[int]]:
    """Ids of all living processes that work in `directory` or below, by their working directory."""
    found: dict[Path, list[int]] = {}
    for pid in _pids():
        try:
            cwd = Path(os.readlink(_PROC / str(pid) / "cwd").removesuffix(" (deleted)"))
        except OSError:
            # Gone while we looked, a kernel thread, or another user's.
            continue
        if cwd.is_relative_to(directory) and _stat(pid) is not None:
            found.setdefault(cwd, []).append(pid)
    return found


def stages_below(directory: Path) -> set[Path]:
    """The directories directly in `directory`, removed ones too, in which or below which processes work."""
    return {directory / path.relative_to(directory).parts[0] for path in under(directory) if path != directory}


def in_directory(directory: Path) -> list[int]:
    """Ids of all living processes that work in `directory` or below, sorted."""
    return sorted(pid for pids in under(directory).values() for pid in pids)


def of_stage(directory: Path, lock: str) -> list[int]:
    """Ids of the living processes of the stage in `directory`, sorted; `lock`: the name of its lock file."""
    path = directory / lock
    found = in_directory(directory)
    holders = {pid for pid in found if _has_open(pid, path)}
    sessions = {_session(pid) for pid in holders}
    with contextlib.suppress(OSError, ValueError):
        sessions.add(int(path.read_text()))
    return [pid for pid in found if pid in holders or _session(pid) in sessions]


def _has_open(pid: int, path: Path) -> bool:
    descriptors = _PROC / str(pid) / "fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(descriptors):
            with contextlib.suppress(OSError):
                if os.readlink(descriptors / name).removesuffix(" (deleted)") == str(path):
                    return True
    return False


def _session(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None else int(stat[3])


def leader(pids: Iterable[int]) -> Identity | None:
    """The one of `pids` that leads their session, if it lives."""
    for pid in pids:
        stat = _stat(pid)
        if stat is not None and int(stat[3]) == pid:
            return identify(pid)
    return None


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal processes; one that has ended meanwhile needs none."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def wait_for_end(pids: Iterable[int], within_s: float) -> None:
    """Return when all of `pids` have ended, after `within_s` seconds in any case."""
    loop = asyncio.get_running_loop()
    ended: list[asyncio.Future[None]] = []
    descriptors: list[int] = []
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                descriptors.append(descriptor)
                future = loop.create_future()
                loop.add_reader(descriptor, _settle, future)
                ended.append(future)
        if ended:
            await asyncio.wait(ended, timeout=within_s)
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def shared_memory(pids: Iterable[int]) -> set[Path]:
    """Files in /dev/shm that these processes have mapped or open."""
    found: set[Path] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "maps").read_text().splitlines():
                name = line[73:].strip()
                if name.startswith(f"{SHARED_MEMORY}/") and not name.endswith("(deleted)"):
                    found.add(Path(name))
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat after the command, from `state` on (proc(5)); None for no process or a zombie."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in _ZOMBIE else fields
