"""What Redis says beside SQL: balances, budgets, reservations, open attempts, and events that are still in the stream.

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
from registry.ops.budgets import fields_at, list_budgets, spent_nusd
from registry.ops.money import usd
from registry.reconciliation.difference import Difference
from registry.snapshot import BALANCE_KEY, BALANCE_ROWS_KEY, BUDGET_SPENT_KEY

GRACE_MS = 60_000
"""What is younger may be under way: gateways and the ledger need seconds for it."""
MOST_EVENTS = 20_000
"""So many of the oldest events in the stream are looked at."""
_HASHES = (
    BALANCE_KEY, BALANCE_ROWS_KEY, "hyd:reserved", BUDGET_SPENT_KEY, "hyd:budget:reserved", "hyd:attempts",
    "hyd:gateways",
)  # fmt: skip


@dataclass(frozen=True)
class RedisBooks:
    """Redis at one moment. `events`: the attempts of the stream's events, each with when it came there.

    `spent` and `reserved_of_budgets` are by the field of a budget's window (registry/budget_windows.py).
    """

    at_ms: int
    balances: Mapping[str, int]
    rows_summed: Mapping[str, int]
    reserved: Mapping[str, int]
    spent: Mapping[str, int]
    reserved_of_budgets: Mapping[str, int]
    attempts: Mapping[str, Mapping[str, Any]]
    beats: Mapping[str, int]
    events: Mapping[str, int]


def read(redis: Redis) -> RedisBooks:
    """Read all of it in one transaction. Raises RedisError."""
    pipe = redis.pipeline(transaction=True)
    for key in _HASHES:
        pipe.hgetall(key)
    pipe.xrange("hyd:usage", count=MOST_EVENTS)
    pipe.time()
    balances, rows, reserved, spent, of_budgets, attempts, beats, entries, (seconds, micros) = pipe.execute()
    return RedisBooks(
        at_ms=seconds * 1000 + micros // 1000,
        balances=_amounts(balances),
        rows_summed=_amounts(rows),
        reserved=_amounts(reserved),
        spent=_amounts(spent),
        reserved_of_budgets=_amounts(of_budgets),
        attempts={_text(id_): json.loads(raw) for id_, raw in attempts.items()},
        beats={_text(name): json.loads(beat)["at_ms"] for name, beat in beats.items()},
        events=dict(_events(entries)),
    )


def differences(session: Session, books: RedisBooks, now_ms: int) -> Iterator[Difference]:
    """All differences between Redis, as it was read before, and SQL now."""
    yield from _balances(session, books)
    yield from _budgets(session, books)
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


def _budgets(session: Session, books: RedisBooks) -> Iterator[Difference]:
    for name, (budget, window) in sorted(fields_at(list_budgets(session), books.at_ms).items()):
        total = spent_nusd(session, budget.tenant_id, budget.scope_id, budget.period, window)
        spent = books.spent.get(name)
        if spent is None:
            told = f"Redis does not know what budget {name} has spent; in SQL it is {usd(total)}"
            yield Difference("budget_missing", name, "", told)
        elif spent != total:
            # While requests run Redis is a moment behind, but never at the same sum for long.
            told = f"budget {name} has spent {usd(total)} by the usage and {usd(spent)} in Redis"
            yield Difference("budget_differs", name, str(spent), told)


def _reservations(books: RedisBooks) -> Iterator[Difference]:
    held: Counter[tuple[str, str]] = Counter()
    for attempt in books.attempts.values():
        held["tenant", attempt["tenant_id"]] += attempt["reserved_nusd"]
        for name in attempt.get("budgets", ()):
            held["budget", name] += attempt["reserved_nusd"]
    reserved = {("tenant", tenant_id): amount for tenant_id, amount in books.reserved.items()}
    reserved |= {("budget", name): amount for name, amount in books.reserved_of_budgets.items()}
    for what, subject in sorted({*held, *reserved}):
        amount, open_ = reserved.get((what, subject), 0), held[what, subject]
        if amount != open_:
            told = f"{usd(amount)} of {what} {subject} are reserved, and its open attempts reserve {usd(open_)}"
            yield Difference("reserved_differs", subject, str(amount - open_), told)


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
