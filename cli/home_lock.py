"""One `hydrant up` or `hydrant demo` a home: two would start two Redis servers on the same file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.services import CannotStart

LOCK_FILE = "up.lock"


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Holds the lock of `home` while the block runs; the kernel gives it back however this process ends.

    Raises CannotStart when another process has it.
    """
    with (home / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise CannotStart(
                f"Hydrant already runs in this home (pid {pid}, {home}). Use it, or stop it first (Ctrl-C there, or:"
                f" kill {pid}), or start another beside it: HYDRANT_HOME=/another/directory, with ports of its own"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
