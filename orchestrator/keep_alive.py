"""How long an unused worker is worth keeping, and which one will be missed least: from a model's own pauses.

A pause is the time from a model's last request to the next one. Keeping a worker for T costs the sum of min(pause, T)
of idle memory and saves a cold start for every pause that ends within T; the T that saves most, each saved start being
worth so much idle time, is taken. ("Serverless in the Wild", ATC '20, keeps by a histogram of the same pauses.)
"""

from collections.abc import Iterable, Sequence

WORTH_OF_A_START = 3
"""A saved cold start is worth this many times the keep-alive that people have set."""
LONGEST = 10
"""An unused worker is kept for at most this many times that keep-alive."""
SLACK_PERCENT = 120
"""A worker that is kept for a pause is kept a little longer: the next pause will not be the same."""
SHORTEST_MS = 1_000
REMEMBERED = 32
"""Pauses of a model that are remembered, the newest."""


def keep_alive_ms(pauses_ms: Sequence[int], set_ms: int) -> int:
    """How long to keep an unused worker of a model with these pauses, when people have set `set_ms`.

    Without a pause to learn from, as set. One more pause, that never ends, is always counted, so that a few short ones
    do not promise too much.
    """
    if not pauses_ms or set_ms <= 0:
        return set_ms
    worth, most = WORTH_OF_A_START * set_ms, LONGEST * set_ms
    ordered = sorted(pause for pause in pauses_ms if pause <= most)
    longer = len(pauses_ms) - len(ordered) + 1
    best, gained, spent = 0, 0, 0
    for i, pause in enumerate(ordered):
        spent += pause
        gain = (i + 1) * worth - spent - (len(ordered) - i - 1 + longer) * pause
        if gain > gained:
            best, gained = pause, gain
    return min(most, max(SHORTEST_MS, best * SLACK_PERCENT // 100))


def keep_alive_in_plenty_ms(pauses_ms: Sequence[int], set_ms: int) -> int:
    """The same while nobody needs the memory: a single long pause, or a few, do not yet end a worker at once.

    What people have set counts as much as one pause: after n pauses, a worker stays for an (n + 1)-th of it at least.
    """
    return max(keep_alive_ms(pauses_ms, set_ms), set_ms // (len(pauses_ms) + 1))


def keep_alives_ms(pauses_ms: Sequence[int], set_ms: int) -> tuple[int, int]:
    """Both: how long while memory is short, and how long while nobody needs it."""
    return keep_alive_ms(pauses_ms, set_ms), keep_alive_in_plenty_ms(pauses_ms, set_ms)


def note(busy_until_ms: int, pauses_ms: Sequence[int], spans: Iterable[tuple[int, int]]) -> tuple[int, list[int]]:
    """Until when a model has been busy now, and its newest pauses, after requests with these (beginning, end).

    `busy_until_ms` and `pauses_ms` are what was noted before; without any, `busy_until_ms` is 0.
    """
    pauses = list(pauses_ms)
    for begun_ms, ended_ms in sorted(spans):
        if 0 < busy_until_ms < begun_ms:
            pauses.append(begun_ms - busy_until_ms)
        busy_until_ms = max(busy_until_ms, ended_ms)
    return busy_until_ms, pauses[-REMEMBERED:]


def returns_per_ms(pauses_ms: Sequence[int], unused_ms: int) -> float:
    """How many requests a millisecond of idle memory buys from now on, when the model has been unused for so long.

    Over the time to wait that buys most: the likelihood that a request comes within it, by the time for which the
    worker is then there unused (Gittins' index of the pause). One more pause, that never ends, is always counted.
    """
    lasting = sorted(pause - unused_ms for pause in pauses_ms if pause > unused_ms)
    best, spent = 0.0, 0
    for i, wait in enumerate(lasting):
        spent += wait
        best = max(best, (i + 1) / (spent + (len(lasting) - i) * wait))
    return best


def missed(pauses_ms: Sequence[int], unused_ms: int, within_ms: int) -> float:
    """How likely a model that has been unused for so long is asked for within the next `within_ms` (0 to 1)."""
    lasting = [pause for pause in pauses_ms if pause > unused_ms]
    soon = sum(pause <= unused_ms + within_ms for pause in lasting)
    return soon / (len(lasting) + 1)
