"""Endings of one turn of the event loop go to Redis together."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from gateway.accounting.admission import ENDINGS_AT_MOST, Admission
from gateway.accounting.attempts import FinalEvent
from gateway.accounting.scripts import Answer, Script, Scripts


class Recorded(Scripts):
    """What would go to Redis; each call is answered at once, or fails with `error`."""

    def __init__(self) -> None:
        super().__init__(Redis())
        self.sent: list[bytes] = []
        self.error: Exception | None = None

    def send(self, script: Script, packed: bytes, answer: Answer | None = None) -> Answer:
        assert answer is not None
        self.sent.append(packed)
        if self.error is None:
            answer.set_result(1)
        else:
            answer.set_exception(self.error)
        return answer


def event(number: int, tenant: str = "ten_1", lock: tuple[str, str] | None = None) -> FinalEvent:
    return FinalEvent(f"att_{number}", tenant, ("hyd:slots:key:key_1",), (), 0, 5, b'{"reserved_nusd":5}', lock)


async def test_endings_of_the_same_scopes_are_one_call_and_of_others_another() -> None:
    scripts = Recorded()
    admission = Admission(Redis(), scripts)
    await asyncio.gather(*(admission.finish(event(number)) for number in range(5)), admission.finish(event(9, "ten_2")))
    first, second = scripts.sent
    assert [number for number in range(10) if b"att_%d\r\n" % number in first] == [0, 1, 2, 3, 4]
    assert b"att_9\r\n" in second
    assert b"ten_2" in second
    await admission.finish(event(6))
    assert len(scripts.sent) == 3


async def test_a_call_has_a_bounded_number_of_endings() -> None:
    scripts = Recorded()
    admission = Admission(Redis(), scripts)
    numbers = range(2 * ENDINGS_AT_MOST + 1)
    await asyncio.gather(*(admission.finish(event(number)) for number in numbers))
    counts = [sum(b"att_%d\r\n" % number in packed for number in numbers) for packed in scripts.sent]
    assert sorted(counts) == [1, ENDINGS_AT_MOST, ENDINGS_AT_MOST]


async def test_each_ending_of_a_call_that_fails_has_failed() -> None:
    scripts = Recorded()
    scripts.error = ConnectionError("gone")
    admission = Admission(Redis(), scripts)
    found = await asyncio.gather(*(admission.finish(event(number)) for number in range(3)), return_exceptions=True)
    assert [type(one) for one in found] == [ConnectionError] * 3


async def test_a_lock_goes_with_its_own_ending() -> None:
    scripts = Recorded()
    admission = Admission(Redis(), scripts)
    await asyncio.gather(admission.finish(event(1)), admission.finish(event(2, lock=("hyd:idem:x", "mine"))))
    (packed,) = scripts.sent
    words = packed.split(b"\r\n")[2::2]
    assert words[words.index(b"att_1") :] == [
        *(b"att_1", b'{"reserved_nusd":5}', b"0", b"", b""),
        *(b"att_2", b'{"reserved_nusd":5}', b"0", b"hyd:idem:x", b"mine"),
    ]
