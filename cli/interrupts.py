"""Signals that ask `hydrant up` and `hydrant demo` to end: the first stops everything in order, the rest do nothing."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKING_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell reports for a process that this signal ended."""
        return 128 + self.number


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the first signal raises Interrupted wherever the main thread is; later ones are ignored.

    honcho and the engines run in sessions of their own and hear nothing of a closed terminal, a cancelled job or a
    `timeout`: whoever started them must live to stop them.
    """
    before = {number: signal.getsignal(number) for number in ASKING_TO_END}

    def interrupt(number: int, _frame: FrameType | None) -> None:
        ignore_further()
        raise Interrupted(number)

    for number, handler in before.items():
        # nohup ignores SIGHUP, and means it.
        if not (number == signal.SIGHUP and handler is signal.SIG_IGN):
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_further() -> None:
    """From here on no signal interrupts: what is being stopped is stopped to the end."""
    for number in ASKING_TO_END:
        # A handler that does nothing, since SIG_IGN would be inherited by what the stopping starts.
        signal.signal(number, _do_nothing)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    return
