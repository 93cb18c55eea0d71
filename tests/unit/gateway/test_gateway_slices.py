"""What a slice of leased quota may be used for, and how fast requests come."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway.accounting.admission import Admitted, Ahead
from gateway.accounting.attempts import Account, Attempt
from gateway.accounting.leases import KEEP_S, PACE_S, Leases, Pace, _most_of_size, _Supply
from gateway.accounting.scopes import UNLIMITED, Scopes
from gateway.readmodel.snapshot import Price

ACCOUNT = Account(
    "req_1", "ten_1", "key_1", "m", "mod_1", Price("prc_1", 1, 1, 1, 1), "direct", "/v1/completions", False, "gw_1"
)
IDS = ("att_a", "att_b", "att_c")
AT_MS = 1_000


def attempt() -> Attempt:
    return Attempt(ACCOUNT, reserved_nusd=100, counted_tokens=10, started_at_ms=1)


def supply(*, granted: int, reset_ms: int) -> _Supply:
    first = attempt()
    first.applied(AT_MS, ("key_1:day:1",))
    filled = _Supply(UNLIMITED, 5.0)
    ahead = Ahead(IDS, "ten_1", UNLIMITED, _most_of_size(100), _most_of_size(10), b"")
    filled.fill(ahead, Admitted(reset_ms, 600, 500, 9_000, 8_000, granted), first, 5.0)
    return filled


def test_an_attempt_becomes_one_of_the_slice() -> None:
    of = supply(granted=2, reset_ms=40_000)
    taken = [attempt(), attempt(), attempt()]
    said = [of.take(one, 5.01) for one in taken]
    assert {taken[0].attempt_id, taken[1].attempt_id} == set(IDS[:2])
    assert (taken[0].reserved_nusd, taken[0].counted_tokens) == (127, 15)
    assert (taken[0].admitted_at_ms, taken[0].counted_in) == (AT_MS, ("key_1:day:1",))
    assert said[0] == Admitted(39_990, 600, 499, 9_000, 8_000 - 15)
    assert said[1] == Admitted(39_990, 600, 498, 9_000, 8_000 - 30)
    assert said[2] is None
    assert (taken[2].reserved_nusd, taken[2].admitted_at_ms) == (100, None)
    assert of.rest() is None


def test_nothing_of_a_slice_is_used_after_the_minute_in_which_it_counts() -> None:
    of = supply(granted=3, reset_ms=30)
    assert of.take(attempt(), 5.029) is not None
    assert of.take(attempt(), 5.03) is None
    rest = of.rest()
    assert rest is not None
    assert rest.ids == IDS[:2]
    assert of.rest() is None


def test_a_slice_is_given_back_soon() -> None:
    of = supply(granted=3, reset_ms=40_000)
    assert of.until == pytest.approx(5.0 + KEEP_S)
    assert of.take(attempt(), 5.0 + KEEP_S) is None


def test_without_limits_there_are_none_to_tell_of() -> None:
    of = _Supply(UNLIMITED, 5.0)
    first = attempt()
    first.applied(AT_MS, ())
    ahead = Ahead(IDS, "ten_1", UNLIMITED, 127, 15, b"")
    of.fill(ahead, Admitted(1_000, None, None, None, None, 3), first, 5.0)
    said = of.take(attempt(), 5.0)
    assert said is not None
    assert said.headers() == []


@pytest.mark.parametrize("amount", [0, 1, 2, 3, 4, 1023, 1024, 10**12])
def test_all_requests_of_a_size_fit_and_none_takes_twice_what_it_needs(amount: int) -> None:
    most = _most_of_size(amount)
    assert amount <= most <= max(2 * amount - 1, amount)
    assert most.bit_length() == amount.bit_length()


def test_a_burst_is_no_pace_and_a_pause_ends_one() -> None:
    pace = Pace(0.0)
    for _ in range(500):
        pace.count(PACE_S * 0.9)
    assert pace.in_s(1.0) == 0
    pace.count(PACE_S)
    assert pace.in_s(0.1) == round(500 / PACE_S / 10)
    pace.count(PACE_S + 60.0)
    assert pace.in_s(1.0) == 0


class Slow:
    """An admission that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Ahead] = []
        self.answer = asyncio.Event()

    async def admit(self, one: Attempt, ahead: Ahead | None = None) -> Admitted:
        if ahead is not None:
            self.asked.append(ahead)
            await self.answer.wait()
        one.applied(AT_MS, ())
        return Admitted(30_000, None, None, None, None, 0 if ahead is None else len(ahead.ids))


@pytest.mark.parametrize("meanwhile", ["other limits", "the gateway stops"])
async def test_a_slice_that_comes_too_late_is_given_back(monkeypatch: pytest.MonkeyPatch, meanwhile: str) -> None:
    monkeypatch.setattr(Pace, "in_s", lambda self, seconds: 5)
    slow, given = Slow(), list[Ahead]()
    leases = Leases(cast(Any, slow), "gw_1", given.append)
    asking = asyncio.create_task(leases.admit(attempt()))
    await asyncio.sleep(0)
    assert len(slow.asked) == 1
    if meanwhile == "other limits":
        changed = attempt()
        changed.account = ACCOUNT._replace(scopes=Scopes())
        asking_too = asyncio.create_task(leases.admit(changed))
        await asyncio.sleep(0)
    else:
        leases.close()
    assert given == []
    slow.answer.set()
    await asking
    assert given == slow.asked[:1]
    if meanwhile == "other limits":
        await asking_too
    leases.close()
    assert sorted(one.ids for one in given) == sorted(one.ids for one in slow.asked)
