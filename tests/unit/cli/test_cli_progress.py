"""Waiting is told, also when it is many short waits in a row."""

import io
import re
from itertools import pairwise

import pytest

from cli import progress as module
from cli.progress import Progress, TimedOut


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_short_waits_in_a_row_are_never_silent_for_long(clock: Clock) -> None:
    out = io.StringIO()
    progress = Progress(out)
    progress.say("starting")
    for end in (2.0, 4.0, 6.0, 8.0):
        progress.wait_for("a part", lambda end=end: clock.now >= end or None, within_s=60, hint="")
    told = [0.0, *(float(at) for at in re.findall(r"\[ *([0-9.]+)s\]", out.getvalue())), clock.now]
    assert max(later - before for before, later in pairwise(told)) < module.SILENCE_S + 0.5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_waiting_is_one_line_that_is_written_anew(clock: Clock) -> None:
    out = Terminal()
    progress = Progress(out)
    progress.wait_for("a part", lambda: clock.now > 10 or None, within_s=60, hint="")
    progress.say("there")
    text = out.getvalue()
    assert text.count("waiting for a part") == 3
    assert text.count("\n") == 1
    last = text.split("\r\x1b[K")[-1]
    assert re.fullmatch(r"\[ *[0-9.]+s\] there\n", last), last


def test_what_does_not_come_is_an_error_with_its_hint(clock: Clock) -> None:
    with pytest.raises(TimedOut, match=r"a part: not there after 5 s\. Look at the log"):
        Progress(io.StringIO()).wait_for("a part", lambda: None, within_s=5, hint="Look at the log")
