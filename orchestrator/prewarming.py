"""When a model that sleeps is likely to be asked for again, so that a worker can be there before the request is.

For models that are asked for by the clock, whose pauses are alike. A window after the last request is sought in which a
worker is worth its idle memory, by the same measure as keep_alive.py; what was found in one half of the pauses must
be worth half as much in the other half at least, or chance alone would often make a pattern.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from orchestrator.control import ModelView
from orchestrator.groups import Cause, GroupView
from orchestrator.keep_alive import LONGEST, WORTH_OF_A_START, keep_alive_ms

FEWEST = 8
"""Pauses without which nothing is expected."""
AWAY_MS = 60_000
"""A worker that would be back within this time of its end is not worth ending: no window begins so soon."""
LEAD_MS = 600_000
"""How long before a window a start may begin; one that takes longer is late."""
_SLACK_OF_SPREAD = 5
_SLACK_OF_WORTH = 20
"""A window is wider than the pauses that it holds, at either end, by this part of what lies between them, and at least
by this part of what a saved start is worth. A pause after a cold start is shorter than others by as long as that took.
"""
Window = tuple[int, int]
"""From and until, ms."""


def expected(pauses_ms: Sequence[int], set_ms: int) -> Window | None:
    """The window after a model's last request in which to have a worker again; None where there is none worth it.

    `set_ms` is the keep-alive that people have set, the measure of what a saved cold start is worth.
    """
    if set_ms <= 0 or len(pauses_ms) < FEWEST:
        return None
    soonest_ms = keep_alive_ms(pauses_ms, set_ms) + AWAY_MS
    if sum(pause > soonest_ms for pause in pauses_ms) < FEWEST // 2:
        return None
    half = len(pauses_ms) // 2
    older, newer, every = (_Pauses(some, set_ms) for some in (pauses_ms[:half], pauses_ms[half:], pauses_ms))
    for learnt, tried in ((older, newer), (newer, older)):
        window = learnt.best(soonest_ms)
        if window is None or 2 * tried.gain(window) < learnt.gain(window):
            return None
    return every.best(soonest_ms)


class _Pauses:
    """Pauses of a model, sorted, and one more that never ends, so that few do not promise too much."""

    def __init__(self, pauses_ms: Sequence[int], set_ms: int) -> None:
        self._worth, self._longest = WORTH_OF_A_START * set_ms, LONGEST * set_ms
        self._sorted = sorted(pauses_ms)
        self._sums = [0, *accumulate(self._sorted)]

    def gain(self, window: Window) -> int:
        """What a worker in the window saves: the worth of the starts, less the time for which it is there in vain."""
        begin, end = window
        low, high = bisect_left(self._sorted, begin), bisect_right(self._sorted, end)
        waited = self._sums[high] - self._sums[low] - (high - low) * begin
        in_vain = (len(self._sorted) - high + 1) * (end - begin)
        return (high - low) * self._worth - waited - in_vain

    def best(self, soonest_ms: int) -> Window | None:
        """The window that saves most, around some of the pauses; None when none saves anything."""
        found: tuple[int, int, Window] | None = None
        for i, first in enumerate(self._sorted):
            for last in self._sorted[i:]:
                slack = max(self._worth // _SLACK_OF_WORTH, (last - first) // _SLACK_OF_SPREAD)
                window = first - slack, last + slack
                if window[0] < soonest_ms or window[1] - window[0] > self._longest:
                    continue
                one = -self.gain(window), window[1] - window[0], window
                if one[0] < 0 and (found is None or one < found):
                    found = one
        return None if found is None else found[2]


def is_near(model: ModelView, now_ms: int) -> bool:
    """Whether a start for the model's window may have to begin now."""
    window = model.expected_ms
    return window is not None and window[0] - LEAD_MS <= now_ms < window[1]


def is_awaited(model: ModelView, group: GroupView, now_ms: int) -> bool:
    """Whether an unused worker stays because its model is expected; one that was started for that, from then on."""
    window = model.expected_ms
    if window is None or now_ms >= window[1]:
        return False
    return now_ms >= window[0] or (group.cause is Cause.PREWARM and group.last_used_ms is None)
