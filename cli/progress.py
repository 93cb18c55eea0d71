"""Lines that say what is going on: each with the seconds since the start, and one every few seconds while waiting."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import TextIO, TypeVar

T = TypeVar("T")
SILENCE_S = 3.0
"""Nobody watches a silent terminal for longer than this."""


class TimedOut(Exception):
    """Something that was waited for did not come; the message says what, and what to look at."""


class Progress:
    """Prints to `out`, one line an event; on a terminal, waiting is one line that is written anew."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._rewrites = out.isatty()
        self._passing = False
        self._began = self._said = time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds since this was made."""
        return time.monotonic() - self._began

    def say(self, text: str = "") -> None:
        """One or more lines, the first with the time."""
        first, *rest = text.splitlines() or [""]
        lines = [f"[{self.elapsed_s():5.1f}s] {first}" if first else "", *(f"         {line}" for line in rest)]
        self.show(lines)

    def show(self, lines: Iterable[str]) -> None:
        """Lines as they are, without the time: a report."""
        self._write("\n".join(lines) + "\n")
        self._passing = False

    def _wait(self, text: str) -> None:
        """A line that on a terminal stands until the next one takes its place."""
        if not self._rewrites:
            self.say(text)
            return
        line = f"[{self.elapsed_s():5.1f}s] {text}"
        self._write(line[: shutil.get_terminal_size().columns - 1])
        self._passing = True

    def _write(self, text: str) -> None:
        self._said = time.monotonic()
        # A terminal that was closed, or a pipe whose reader has gone, must not keep what runs from being stopped.
        with suppress(OSError):
            print(("\r\x1b[K" if self._passing else "") + text, end="", file=self._out, flush=True)

    def wait_for(self, what: str, found: Callable[[], T | None], *, within_s: float, hint: str) -> T:
        """Ask `found` until it returns something, saying that this waits for `what` when nothing was said for a while.

        Raises TimedOut after `within_s` seconds, with `hint` as what to look at.
        """
        began = time.monotonic()
        while True:
            result = found()
            if result is not None:
                return result
            now = time.monotonic()
            if now - began > within_s:
                raise TimedOut(f"{what}: not there after {within_s:.0f} s. {hint}")
            # Since the last line of anyone: many short waits in a row are one long silence.
            if now - self._said > SILENCE_S:
                self._wait(f"  ... waiting for {what}")
            time.sleep(0.1)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Say every few seconds that `what` goes on, while the block runs."""
        ended = Event()

        def tick() -> None:
            while not ended.wait(SILENCE_S):
                self._wait(f"  ... {what}")

        thread = Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
