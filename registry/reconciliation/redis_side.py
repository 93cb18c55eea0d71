"""What Redis says beside SQL: balances, reservations, open attempts, and events that are still in the stream.

Redis is read first, in one transaction of its own: whatever it has settled by then, SQL has too.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.models import LedgerEntry, Tenant, Usage
from registry.ops.money import usd
from registry.reconciliation.difference import Difference
from registry.snapshot import BALANCE_KEY, BALANCE_ROWS_KEY

GRACE_MS = 60_000
"""What is younger may be under way: gateways and the ledger need seconds for it."""
MOST_EVENTS = 20_000
"""So many of the oldest events in the stream are looked at."""


@dataclass(frozen=True)
class RedisBooks:
    """Redis at one moment. `events`: the attempts of the stream's events, each with when it came there."""

    balances: Mapping[str, int]
    rows_summed: Mapping[str, int]
    reserved: Mapping[str, int]
    attempts: Mapping[str, Mapping[str, Any]]
    beats: Mapping[str, int]
    events: Mapping[str, int]


def read(redis: Redis) -> RedisBooks:
    """Read all of it in one transaction. Raises RedisError."""
    pipe = redis.pipeline(transaction=True)
    for key in (BALANCE_KEY, BALANCE_ROWS_KEY, "hyd:reserved", "hyd:attempts", "hyd:gateways"):
        pipe.hgetall(key)
    pipe.xrange("hyd:usage", count=MOST_EVENTS)
    balances, rows, reserved, attempts, beats, entries = pipe.execute()
    return RedisBooks(
        balances=_amounts(balances),
        rows_summed=_amounts(rows),
        reserved=_amounts(reserved),
        attempts={_text(id_): json.loads(raw) for id_, raw in attempts.items()},
        beats={_text(name): json.loads(beat)["at_ms"] for name, beat in beats.items()},
        events=dict(_events(entries)),
    )


def differences(session: Session, books: RedisBooks, now_ms: int) -> Iterator[Difference]:
    """All differences between Redis, as it was read before, and SQL now."""
    yield from _balances(session, books)
    yield from _reservations(books)
    yield from _attempts(session, books, now_ms)


def _balances(session: Session, books: RedisBooks) -> Iterator[Difference]:
    sums = {
        tenant_id: (int(total), int(count))
        for tenant_id, total, count in session.execute(
            select(LedgerEntry.tenant_id, func.sum(LedgerEntry.amount_nusd), func.count()).group_by(
                LedgerEntry.tenant_id
            )
        )
    }
    for tenant_id in sorted(session.scalars(select(Tenant.id))):
        total, count = sums.get(tenant_id, (0, 0))
        balance, rows = books.balances.get(tenant_id), books.rows_summed.get(tenant_id)
        if balance is None or rows is None:
            told = f"Redis has no balance of tenant {tenant_id}; in SQL it is {usd(total)}"
            yield Difference("balance_missing", tenant_id, "", told)
        elif rows == count and balance != total:
            told = f"the balance of tenant {tenant_id} is {usd(total)} by the ledger and {usd(balance)} in Redis"
            yield Difference("balance_differs", tenant_id, f"{balance} {total}", told)
        elif rows != count:
            # While requests run Redis is a moment behind, but never at the same row for long.
            told = f"Redis' balance of tenant {tenant_id} is the sum of {rows} ledger entries, and there are {count}"
            yield Difference("balance_behind", tenant_id, str(rows), told)


def _reservations(books: RedisBooks) -> Iterator[Difference]:
    held: Counter[str] = Counter()
    for attempt in books.attempts.values():
        held[attempt["tenant_id"]] += attempt["reserved_nusd"]
    for tenant_id in sorted({*held, *books.reserved}):
        reserved = books.reserved.get(tenant_id, 0)
        if reserved != held[tenant_id]:
            told = (
                f"{usd(reserved)} of tenant {tenant_id} are reserved, and its open attempts"
                f" reserve {usd(held[tenant_id])}"
            )
            yield Difference("reserved_differs", tenant_id, str(reserved - held[tenant_id]), told)


def _attempts(session: Session, books: RedisBooks, now_ms: int) -> Iterator[Difference]:
    old = {id_: one for id_, one in books.attempts.items() if _age(one, now_ms) > GRACE_MS}
    waiting = {id_ for id_, at_ms in books.events.items() if now_ms - at_ms > GRACE_MS}
    settled = _settled(session, [*old, *waiting])
    for attempt_id in sorted(waiting - settled):
        told = f"the event of attempt {attempt_id} has waited in the stream for over a minute; does the ledger run?"
        yield Difference("event_waiting", attempt_id, "", told)
    for attempt_id, attempt in sorted(old.items()):
        if attempt_id in settled:
            told = f"attempt {attempt_id} is settled, and still open in Redis: what it reserves is kept from its tenant"
            yield Difference("attempt_not_closed", attempt_id, "", told)
        elif attempt.get("outcome") is not None:
            if attempt_id not in books.events:
                told = f"attempt {attempt_id} has ended, and its event is neither in the stream nor in the usage"
                yield Difference("event_lost", attempt_id, "", told)
        elif now_ms - books.beats.get(attempt["gateway_id"], 0) > GRACE_MS:
            told = f"attempt {attempt_id} of gateway {attempt['gateway_id']}, which is silent, was not settled"
            yield Difference("attempt_abandoned", attempt_id, "", told)


def _age(attempt: Mapping[str, Any], now_ms: int) -> int:
    return int(now_ms - attempt.get("ended_at_ms", attempt["started_at_ms"]))


def _settled(session: Session, attempt_ids: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(attempt_ids), 500):
        some = attempt_ids[start : start + 500]
        found.update(session.scalars(select(Usage.attempt_id).where(Usage.attempt_id.in_(some))))
    return found


def _events(entries: Iterable[tuple[bytes, Mapping[bytes, bytes] | None]]) -> Iterator[tuple[str, int]]:
    for entry_id, fields in entries:
        try:
            event = json.loads((fields or {}).get(b"event", b"null"))
        except ValueError:
            continue  # the ledger puts it aside, and is told of it as not billed
        if isinstance(event, dict) and isinstance(event.get("attempt_id"), str):
            yield event["attempt_id"], int(entry_id.split(b"-")[0])


def _amounts(found: Mapping[bytes, bytes]) -> dict[str, int]:
    return {_text(name): int(value) for name, value in found.items()}


def _text(value: bytes) -> str:
    return value.decode()
