"""Final usage events on local disk until Redis has them for good.

One file a gateway process, named by its gateway id and locked while the process lives; a process that starts adopts the
files whose lock is free. A line is appended before the client gets the last bytes of its answer, and written to the
kernel at once: it survives any death of the process. It is not fsynced: only the loss of the whole machine within the
moment until Redis (whose AOF is fsynced each second) has the event could lose it, and a sync a request would cost more
than everything else the gateway does.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from gateway.accounting.attempts import FinalEvent

log = logging.getLogger(__name__)


# A file is emptied in the middle of work when it has grown to this: emptying costs more than ten writes.
WORTH_EMPTYING_BYTES = 64 * 1024


class Spool:
    """Appends events and forgets them when they are published. The file is emptied when nothing is outstanding: at
    once when it has grown, else by `tidy`. Until then whoever adopts it publishes some events again, which harms
    nobody."""

    def __init__(self, directory: Path, gateway_id: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._path = directory / f"{gateway_id}.jsonl"
        self._file = _create_locked(self._path)
        self._outstanding: set[str] = set()
        self._written_bytes = 0

    @property
    def outstanding(self) -> int:
        """How many events wait for Redis."""
        return len(self._outstanding)

    def append(self, event: FinalEvent) -> None:
        """Writes one event. Raises OSError when the disk refuses."""
        self._outstanding.add(event.attempt_id)
        self._written_bytes += os.write(self._file, event.to_line())

    def published(self, attempt_id: str) -> None:
        """Forgets an event that the stream has."""
        self._outstanding.discard(attempt_id)
        if self._written_bytes >= WORTH_EMPTYING_BYTES:
            self.tidy()

    def tidy(self) -> None:
        """Empties the file if nothing in it is needed."""
        if self._written_bytes and not self._outstanding:
            os.ftruncate(self._file, 0)
            self._written_bytes = 0

    def adopt(self) -> list[FinalEvent]:
        """Takes over the events of processes that are gone, into this spool."""
        adopted: list[FinalEvent] = []
        for path in sorted(self._directory.glob("*.jsonl")):
            if path == self._path:
                continue
            try:
                file = os.open(path, os.O_RDWR)
            except FileNotFoundError:  # another starting gateway adopted it
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its process lives
                os.close(file)
                continue
            # Another starting gateway may have had the lock before: then the file has no name any more.
            if os.fstat(file).st_nlink:
                for event in _read(file, path):
                    self.append(event)
                    adopted.append(event)
                path.unlink(missing_ok=True)
            os.close(file)
        return adopted

    def close(self) -> None:
        """Unlocks the file, and removes it when nothing is left in it."""
        if not self._outstanding:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


def _create_locked(path: Path) -> int:
    """A new file that this process has locked, and that still has its name: between the two another starting gateway
    may take the empty file for a dead one's, and remove it."""
    while True:
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file
        os.close(file)


def _read(file: int, path: Path) -> list[FinalEvent]:
    events = []
    for line in os.pread(file, os.fstat(file).st_size, 0).splitlines():
        try:
            events.append(FinalEvent.from_line(line))
        except (ValueError, KeyError, TypeError):
            # A process killed inside its write leaves half a line: that attempt is settled from its last checkpoint.
            log.warning("a torn line in %s is left to the ledger's sweep", path)
    return events
