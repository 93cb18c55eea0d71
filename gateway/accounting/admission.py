"""Admits requests and settles attempts, each in one round trip to Redis, by the scripts under lua/."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from math import ceil
from typing import NamedTuple

from redis.asyncio import Redis

from gateway import rediskeys
from gateway.accounting.attempts import Attempt, FinalEvent
from gateway.accounting.scopes import BudgetScope, Scopes
from gateway.accounting.scripts import Answer, Prepared, Scripts
from gateway.errors import (
    ApiError,
    idempotency_in_flight,
    idempotency_key_reused,
    insufficient_quota,
    invalid_request,
    over_budget,
    rate_limited,
    unavailable,
)

# A slot outlives its gateway's last heartbeat (one a second) by this much.
SLOT_LIFE_MS = 15_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000
# What one checkpoint script call carries at most, so that Redis is never blocked for long.
CHECKPOINT_BATCH = 200
# Endings of so many sets of scopes are packed once.
PREPARED_AT_MOST = 2048
# So many endings go together at most: others are to have their turn.
ENDINGS_AT_MOST = 16


class Admitted(NamedTuple):
    """What the rate-limit headers say, of the tightest limit; None: there is none. `reset_ms` to the next minute.

    `ahead`: attempts that were admitted ahead with it; what they hold is still told as left.
    """

    reset_ms: int
    request_limit: int | None
    requests_left: int | None
    token_limit: int | None
    tokens_left: int | None
    ahead: int = 0

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's `x-ratelimit-*` headers for the limits that exist."""
        out: list[tuple[bytes, bytes]] = []
        reset = f"{ceil(self.reset_ms / 1000)}s".encode()
        if self.request_limit is not None:
            out += (
                (b"x-ratelimit-limit-requests", str(self.request_limit).encode()),
                (b"x-ratelimit-remaining-requests", str(self.requests_left).encode()),
                (b"x-ratelimit-reset-requests", reset),
            )
        if self.token_limit is not None:
            out += (
                (b"x-ratelimit-limit-tokens", str(self.token_limit).encode()),
                (b"x-ratelimit-remaining-tokens", str(self.tokens_left).encode()),
                (b"x-ratelimit-reset-tokens", reset),
            )
        return out


class Ahead(NamedTuple):
    """Attempts to be admitted ahead of their requests, all alike. `record` is what Redis keeps of each: the JSON that
    follows its id."""

    ids: tuple[str, ...]
    tenant_id: str
    scopes: Scopes
    reserved_nusd: int
    counted_tokens: int
    record: bytes


class _Endings(NamedTuple):
    """Endings that go together, and the answer for all."""

    answer: Answer
    events: list[FinalEvent]


@dataclass(frozen=True, slots=True)
class Persistence:
    """A Redis server's identity (it changes with every start), and whether it keeps what it has taken over one."""

    run_id: str
    has_aof: bool
    settled: list[str]


class Admission:
    """The scripts, and a look at Redis itself, by a client whose commands all have a time limit."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._admit, self._give_back, self._release, self._replace, self._finish, self._checkpoint = (
            scripts.register(files("gateway.accounting").joinpath("lua", f"{name}.lua").read_text())
            for name in ("admit", "give_back", "release", "replace", "finish", "checkpoint")
        )
        self._finish_for = lru_cache(PREPARED_AT_MOST)(self._prepare_finish)
        # By what they have in common, those that are sent at the end of this turn.
        self._endings: dict[tuple[str, tuple[str, ...], tuple[str, ...]], _Endings] = {}

    async def admit(self, attempt: Attempt, ahead: Ahead | None = None) -> Admitted:
        """Checks limits, balance and budgets, reserves, and writes the attempt; and as many of those `ahead`, which are
        of its scopes, as there is plenty of room for.

        Raises `ApiError` 429 when one of them does not allow it, and RedisError when Redis does not answer: then it is
        unknown whether the attempt was written, and the caller must release it. So must a caller that is cancelled: it
        learns of that when Redis has answered.
        """
        account = attempt.account
        keys = [
            rediskeys.BALANCE,
            rediskeys.RESERVED,
            rediskeys.ATTEMPTS,
            rediskeys.BUDGET_SPENT,
            rediskeys.BUDGET_RESERVED,
            "" if attempt.lock is None else attempt.lock[0],
            *account.scopes.admission_keys,
        ]
        args: list[str | int | bytes] = [
            attempt.attempt_id,
            attempt.application(),
            account.tenant_id,
            attempt.reserved_nusd,
            attempt.counted_tokens,
            SLOT_LIFE_MS,
            "" if attempt.lock is None else attempt.lock[1],
        ]
        if ahead is None:
            args.append(0)
        else:
            args += (len(ahead.ids), ahead.reserved_nusd, ahead.counted_tokens, ahead.record, *ahead.ids)
        args += account.scopes.admission_args
        answer = await self._admit(keys=keys, args=args)
        verdict, scope_kind, at_ms = answer[0].decode(), answer[1].decode(), answer[2]
        fields = tuple(field.decode() for field in answer[8:])
        request_limit, requests_left, token_limit, tokens_left = (None if left < 0 else left for left in answer[3:7])
        reset_ms = MINUTE_MS - at_ms % MINUTE_MS
        admitted = Admitted(reset_ms, request_limit, requests_left, token_limit, tokens_left, answer[7])
        if verdict == "in_flight":
            assert attempt.lock is not None
            same = scope_kind.partition(":")[0] == attempt.lock[1].partition(":")[0]
            raise idempotency_in_flight() if same else idempotency_key_reused()
        if verdict.startswith("budget"):
            # Those before it have let the request through.
            budget = account.scopes.budgets[len(fields) - 1]
            raise _over_budget(verdict, budget, fields[-1], at_ms, scope_kind, attempt.reserved_nusd)
        if verdict != "ok":
            raise _refusal(verdict, scope_kind, admitted)
        attempt.applied(at_ms, fields)
        return admitted

    def give_back(self, ahead: Ahead) -> asyncio.Future[None]:
        """Gives everything back that `admit` took for these, where no request has taken them. Harmless when repeated.

        Fails with RedisError.
        """
        scopes = ahead.scopes
        slots, tokens = scopes.slot_keys, scopes.token_keys
        return self._give_back(
            keys=[
                rediskeys.RESERVED,
                rediskeys.ATTEMPTS,
                rediskeys.BUDGET_RESERVED,
                *slots,
                *tokens,
                *scopes.request_keys,
            ],
            args=[ahead.tenant_id, ahead.counted_tokens, len(slots), len(tokens), *ahead.ids],
        )

    def release(self, attempt: Attempt) -> asyncio.Future[None]:
        """Gives everything back that `admit` took. Harmless when repeated. Fails with RedisError."""
        account = attempt.account
        slots, tokens = account.scopes.slot_keys, account.scopes.token_keys
        return self._release(
            keys=[rediskeys.RESERVED, rediskeys.ATTEMPTS, rediskeys.BUDGET_RESERVED, *slots, *tokens],
            args=[attempt.attempt_id, account.tenant_id, attempt.counted_tokens, len(slots), *(attempt.lock or ())],
        )

    async def replace(self, old: Attempt, new: Attempt) -> bool:
        """Moves reservation and slots to the next attempt of the same request; False when the old one was settled."""
        moved = await self._replace(
            keys=[rediskeys.ATTEMPTS, *old.account.scopes.slot_keys],
            args=[old.attempt_id, new.attempt_id, new.record()],
        )
        return bool(moved)

    def finish(self, event: FinalEvent, *, alone: bool = False) -> asyncio.Future[None]:
        """Publishes a final event and frees what the attempt held beyond its cost. Fails with RedisError.

        Those of the same scopes that end in one turn of the event loop go together, and fail together, unless they are
        to go `alone`.
        """
        scopes = event.tenant_id, event.slot_keys, event.token_keys
        if alone:
            return self._finish_for(*scopes)(*_words(event))
        endings = self._endings.get(scopes)
        if endings is None:
            loop = asyncio.get_running_loop()
            endings = self._endings[scopes] = _Endings(Answer(loop=loop), [])
            loop.call_soon(self._send_endings, scopes, endings)
        endings.events.append(event)
        if len(endings.events) == ENDINGS_AT_MOST:
            del self._endings[scopes]
        return endings.answer

    def _send_endings(self, scopes: tuple[str, tuple[str, ...], tuple[str, ...]], endings: _Endings) -> None:
        if self._endings.get(scopes) is endings:
            del self._endings[scopes]
        self._finish_for(*scopes)(*chain.from_iterable(map(_words, endings.events)), answer=endings.answer)

    def _prepare_finish(self, tenant_id: str, slot_keys: tuple[str, ...], token_keys: tuple[str, ...]) -> Prepared:
        keys = (rediskeys.RESERVED, rediskeys.ATTEMPTS, rediskeys.USAGE, rediskeys.BUDGET_RESERVED)
        return self._finish.prepare((*keys, *slot_keys, *token_keys), (tenant_id, len(slot_keys)))

    async def look(self, attempt_ids: list[str]) -> Persistence:
        """What kind of Redis this is, and which of these attempts it still holds, at one moment of one server.

        Raises RedisError.
        """
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.info("server")
            pipe.info("persistence")
            for attempt_id in attempt_ids:
                pipe.hexists(rediskeys.ATTEMPTS, attempt_id)
            server, persistence, *held = await pipe.execute()
        settled = [attempt_id for attempt_id, is_held in zip(attempt_ids, held, strict=True) if not is_held]
        return Persistence(str(server.get("run_id")), bool(persistence.get("aof_enabled")), settled)

    async def checkpoint(self, attempts: list[Attempt]) -> None:
        """Writes the running usage of open attempts and keeps their slots alive."""
        for start in range(0, len(attempts), CHECKPOINT_BATCH):
            batch = attempts[start : start + CHECKPOINT_BATCH]
            keys = [rediskeys.ATTEMPTS]
            args: list[str | int | bytes] = [SLOT_LIFE_MS]
            for attempt in batch:
                slots = attempt.account.scopes.slot_keys
                keys.extend(slots)
                args.extend((attempt.attempt_id, attempt.record(), len(slots), *(attempt.lock or ("", ""))))
            await self._checkpoint(keys=keys, args=args)


def _words(event: FinalEvent) -> tuple[str | int | bytes, ...]:
    """Of lua/finish.lua, those of one event."""
    return event.attempt_id, event.body, event.surplus_tokens, *(event.lock or ("", ""))


def redis_unavailable(reason: str) -> ApiError:
    """503 for a request that cannot be admitted because Redis does not answer. Never lets it through unlimited."""
    return unavailable(
        f"Requests cannot be admitted: Redis does not answer ({reason}). Try again shortly.",
        code="admission_unavailable",
    )


def _refusal(verdict: str, scope: str, admitted: Admitted) -> ApiError:
    wait_s = max(1, ceil(admitted.reset_ms / 1000))
    if verdict == "requests":
        error = rate_limited("requests", f"The {scope}'s limit of requests per minute is reached.", wait_s)
    elif verdict == "tokens":
        error = rate_limited("tokens", f"The {scope}'s limit of tokens per minute is reached.", wait_s)
    elif verdict == "tokens_never":
        error = invalid_request(
            f"This request may use more tokens than the {scope}'s whole limit per minute. Lower max_tokens.",
            "max_tokens",
            "tokens_over_limit",
        )
    elif verdict == "parallel":
        error = rate_limited("requests", f"The {scope}'s limit of parallel requests is reached.", 1)
    elif verdict == "balance_unknown":
        error = unavailable(
            "No balances are loaded in Redis: the tenant was never topped up, or the registry is rebuilding Redis.",
            code="balance_unknown",
        )
    else:
        error = insufficient_quota()
    error.headers += tuple(admitted.headers())
    return error


def _over_budget(verdict: str, budget: BudgetScope, field: str, at_ms: int, left_nusd: str, cost_nusd: int) -> ApiError:
    """The refusal by a budget, whose window the Redis field ends with; `left_nusd` is in the script's digits."""
    if verdict == "budget_unknown":
        return unavailable(
            f"What the {budget.kind} has spent of its budget is not loaded in Redis; the ledger writes it within "
            "seconds.",
            code="budget_unknown",
        )
    end_ms = ends_at_ms(budget.period, int(field.rsplit(":", 1)[1]))
    return over_budget(
        budget.kind,
        budget.period,
        budget.amount_nusd,
        end_ms,
        at_ms,
        left_nusd=int(left_nusd),
        cost_nusd=cost_nusd,
        busy=verdict == "budget_busy",
    )


def ends_at_ms(period: str, window: int) -> int | None:
    """When a budget's window (as admit.lua numbers them) ends, in milliseconds since the epoch; None: never."""
    if period == "day":
        return (window + 1) * DAY_MS
    if period == "month":
        year, month = divmod(window + 1, 12)
        return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp()) * 1000
    return None
