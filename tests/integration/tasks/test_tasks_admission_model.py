"""The admission scripts beside a model of them in plain Python, in random orders: no sum is ever off."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.redis_server import RedisServer
from support.repeats import EXAMPLES, PATIENCE

from gateway.accounting.admission import Admission, Ahead
from gateway.accounting.attempts import Account, Attempt, FinalEvent, Usage
from gateway.accounting.scopes import BudgetScope, LimitScope, Scopes
from gateway.accounting.scripts import Scripts
from gateway.errors import ApiError
from gateway.ids import new_id
from gateway.readmodel.snapshot import Limits, Price
from registry.budget_windows import field as budget_field
from registry.budget_windows import window_at

pytestmark = PATIENCE
PRICE = Price("prc_1", 10, 5, 40, 100)
OWNERS = (("tenant", ("ten_1", "ten_2")), ("key", ("key_1", "key_2")), ("model", ("mod_1", "mod_2")))
PERIODS = ("day", "month", "total")
BALANCE = 300_000
STEPS = (
    *("admit", "admit", "admit", "ahead", "ahead", "take", "take", "give back"),
    *("finish", "finish several", "release", "replace", "checkpoint", "close", "limits"),
)
UNTOUCHED, SHARE = 64, 8
"""lua/admit.lua: so many requests' worth is not admitted ahead, and of the rest one in so many."""


@dataclass
class Expected:
    """What Redis should hold, and what was spent."""

    limits: dict[str, Limits] = field(default_factory=dict)
    budgets: dict[tuple[str, str], int] = field(default_factory=dict)
    balance: dict[str, int] = field(default_factory=lambda: {"ten_1": BALANCE, "ten_2": BALANCE})
    reserved: Counter[str] = field(default_factory=Counter)
    budget_reserved: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    slots: dict[str, set[str]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    def allows(self, attempt: Attempt, fields: dict[BudgetScope, str]) -> bool:
        account = attempt.account
        for scope in account.scopes.limits:
            rpm, tpm, parallel = scope.limits.rpm, scope.limits.tpm, scope.limits.parallel
            if rpm is not None and self.requests[scope.rate_key] >= rpm:
                return False
            if tpm is not None and self.tokens[scope.rate_key] + attempt.counted_tokens > tpm:
                return False
            if parallel is not None and len(self.slots.get(scope.slots_key, ())) >= parallel:
                return False
        tenant = account.tenant_id
        if self.balance[tenant] - self.reserved[tenant] < attempt.reserved_nusd:
            return False
        return all(
            self.spent[name] + self.budget_reserved[name] + attempt.reserved_nusd <= budget.amount_nusd
            for budget, name in fields.items()
        )

    def room(self, attempt: Attempt, fields: dict[BudgetScope, str], ahead: Ahead) -> int:
        """How many of these there is room for, before the attempt has been counted."""
        account, rooms = attempt.account, [len(ahead.ids)]
        for scope in account.scopes.limits:
            rpm, tpm, parallel = scope.limits.rpm, scope.limits.tpm, scope.limits.parallel
            if rpm is not None:
                rooms.append((rpm - self.requests[scope.rate_key] - UNTOUCHED) // SHARE)
            if tpm is not None:
                left = tpm - self.tokens[scope.rate_key] - attempt.counted_tokens
                rooms.append(int((left / ahead.counted_tokens - UNTOUCHED) // SHARE))
            if parallel is not None:
                rooms.append((parallel - len(self.slots.get(scope.slots_key, ())) - UNTOUCHED) // SHARE)
        money = [self.balance[account.tenant_id] - self.reserved[account.tenant_id]]
        money += [budget.amount_nusd - self.spent[name] - self.budget_reserved[name] for budget, name in fields.items()]
        for left in money:
            rooms.append(int(((left - attempt.reserved_nusd) / ahead.reserved_nusd - UNTOUCHED) // SHARE))
        return max(0, min(rooms))

    def hold(self, attempt: Attempt, amount: int, tokens: int) -> None:
        """Adds to all that the attempt is counted in."""
        self.reserved[attempt.account.tenant_id] += amount
        for name in attempt.counted_in:
            self.budget_reserved[name] += amount
        for name in attempt.account.scopes.token_keys:
            self.tokens[name] += tokens


class World:
    """A real Redis, the scripts, and what they should have made of it."""

    def __init__(self, client: redis.asyncio.Redis, scripts: Scripts, chance: random.Random, close_script: str) -> None:
        self.redis, self.admission, self.chance = client, Admission(client, scripts), chance
        self.close_script = close_script
        self.expected = Expected()
        self.open: list[Attempt] = []
        # Admitted ahead: what is left of each slice, and the attempt that it was admitted with.
        self.slices: list[tuple[Ahead, Attempt]] = []
        self.admitted_ahead = 0
        # A poor world is always near its limits, a rich one sometimes.
        self.wealth = chance.choice((1, 20, 100))
        self.expected.balance = dict.fromkeys(self.expected.balance, BALANCE * self.wealth)
        self.ended: list[tuple[Attempt, FinalEvent]] = []

    def change_limits(self) -> None:
        number = self.chance.randint
        for kind, ids in OWNERS:
            for id_ in ids:
                self.expected.limits[id_] = Limits(
                    *(self.chance.choice((None, number(self.wealth, most * self.wealth**2))) for most in (12, 3000, 4))
                )
                if kind != "model":
                    for period in PERIODS:
                        self.expected.budgets[id_, period] = self.chance.choice((0, number(1, 200_000 * self.wealth)))

    async def admit(self, *, ahead: bool = False) -> None:
        chosen = [(kind, self.chance.choice(ids)) for kind, ids in OWNERS]
        limits = tuple(LimitScope(kind, id_, self.expected.limits[id_]) for kind, id_ in chosen)
        limits = tuple(scope for scope in limits if scope.limits != Limits(None, None, None))
        budgets = tuple(
            BudgetScope(kind, id_, period, amount)
            for kind, id_ in chosen
            for period in PERIODS
            if (amount := self.expected.budgets.get((id_, period), 0))
        )
        (_, tenant), (_, key), (_, model) = chosen
        account = Account(
            "req_1", tenant, key, "m", model, PRICE, "direct", "/v1/completions", False, "gw_1", Scopes(limits, budgets)
        )
        most = 60_000 // self.wealth
        attempt = Attempt(account, self.chance.randint(1, most), self.chance.randint(1, 900), 1, group_id="grp_1")
        slice_ = None
        if ahead:
            ids = tuple(new_id("att_") for _ in range(self.chance.randint(1, 31)))
            record = f',"tenant_id":"{tenant}","reserved_nusd":{2 * most},"ahead":true}}'.encode()
            slice_ = Ahead(ids, tenant, account.scopes, 2 * most, 1000, record)
        seconds, _ = await self.redis.time()
        fields = {b: budget_field(b.id_, b.period, window_at(b.period, seconds * 1000)) for b in budgets}
        for name in fields.values():
            await self.redis.hsetnx("hyd:budget:spent", name, 0)
        allowed = self.expected.allows(attempt, fields)
        room = 0 if slice_ is None else self.expected.room(attempt, fields, slice_)
        try:
            admitted = await self.admission.admit(attempt, slice_)
        except ApiError:
            assert not allowed
            return
        assert allowed
        assert attempt.counted_in == tuple(fields.values())
        assert admitted.ahead == room
        self.open.append(attempt)
        self.expected.hold(attempt, attempt.reserved_nusd, attempt.counted_tokens)
        taken = {attempt.attempt_id}
        if slice_ is not None:
            taken |= set(slice_.ids[:room])
            self.admitted_ahead += room
            self.expected.hold(attempt, room * slice_.reserved_nusd, room * slice_.counted_tokens)
            # Those that there was no room for may be given back, too: nobody need know which they are.
            self.slices.append((slice_, attempt))
        self.count_requests(account.scopes, len(taken))
        for name in account.scopes.slot_keys:
            self.expected.slots.setdefault(name, set()).update(taken)

    def count_requests(self, scopes: Scopes, change: int) -> None:
        for name in scopes.request_keys:
            self.expected.requests[name] += change

    async def take(self) -> None:
        """A request takes one that was admitted ahead, and is an attempt like any other from then on."""
        known = {name.decode() for name in await self.redis.hkeys("hyd:attempts")}
        for place, (slice_, first) in enumerate(self.slices):
            if slice_.ids[0] in known:
                attempt = Attempt(first.account, slice_.reserved_nusd, slice_.counted_tokens, 1, group_id="grp_1")
                attempt.attempt_id = slice_.ids[0]
                assert first.admitted_at_ms is not None
                attempt.applied(first.admitted_at_ms, first.counted_in)
                self.open.append(attempt)
                self.slices[place] = (slice_._replace(ids=slice_.ids[1:]), first)
                if not slice_.ids[1:]:
                    del self.slices[place]
                return

    async def give_back(self) -> None:
        if not self.slices:
            return
        slice_, first = self.slices.pop(self.chance.randrange(len(self.slices)))
        known = {name.decode() for name in await self.redis.hkeys("hyd:attempts")} & set(slice_.ids)
        self.expected.hold(first, -len(known) * slice_.reserved_nusd, -len(known) * slice_.counted_tokens)
        self.count_requests(slice_.scopes, -len(known))
        for name in slice_.scopes.slot_keys:
            self.expected.slots[name] -= known
        for number in range(self.chance.randint(1, 2)):
            assert await self.admission.give_back(slice_) == (0 if number else len(known))

    async def release(self) -> None:
        if not self.open:
            return
        attempt = self._end()
        self.expected.hold(attempt, -attempt.reserved_nusd, -attempt.counted_tokens)
        for _ in range(self.chance.randint(1, 2)):
            await self.admission.release(attempt)

    async def finish(self, most: int) -> None:
        """Those of the same scopes that end at one moment go together; some may be finished again among them."""
        events = [event for _, event in self.ended if self.chance.random() < 0.1]
        for _ in range(min(self.chance.randint(1, most), len(self.open))):
            attempt = self._end()
            attempt.deliver(Usage(self.chance.randint(0, 500), 0, self.chance.randint(0, 500)))
            event = attempt.final(self.chance.choice(("ok", "client_closed", "upstream_error")))
            self.expected.hold(attempt, event.reserved_nusd - attempt.reserved_nusd, -event.surplus_tokens)
            self.ended.append((attempt, event))
            events += [event] * self.chance.choice((1, 1, 1, 2))
        await asyncio.gather(*map(self.admission.finish, events))

    def _end(self) -> Attempt:
        attempt = self.open.pop(self.chance.randrange(len(self.open)))
        for name in attempt.account.scopes.slot_keys:
            self.expected.slots[name].discard(attempt.attempt_id)
        return attempt

    async def replace(self) -> None:
        if not self.open:
            return
        old = self.open.pop(self.chance.randrange(len(self.open)))
        new = old.successor()
        assert await self.admission.replace(old, new)
        for name in old.account.scopes.slot_keys:
            self.expected.slots[name].discard(old.attempt_id)
            self.expected.slots[name].add(new.attempt_id)
        self.open.append(new)

    async def close(self) -> None:
        """What the ledger does: the cost leaves the balance, is spent of the budgets, and is no longer reserved."""
        if not self.ended:
            return
        attempt, event = self.ended.pop(self.chance.randrange(len(self.ended)))
        cost, tenant = event.reserved_nusd, attempt.account.tenant_id
        self.expected.balance[tenant] -= cost
        await self.redis.hset("hyd:balance", tenant, self.expected.balance[tenant])
        for name in attempt.counted_in:
            self.expected.spent[name] += cost
            await self.redis.hset("hyd:budget:spent", name, self.expected.spent[name])
        keys = ("hyd:attempts", "hyd:reserved", "hyd:budget:reserved")
        for _ in range(2):
            await self.redis.eval(self.close_script, 3, *keys, attempt.attempt_id)
        self.expected.hold(attempt, -cost, 0)

    async def check(self) -> None:
        """Every sum, slot and counter in Redis is what the model says."""
        for key, sums in (
            ("hyd:reserved", self.expected.reserved),
            ("hyd:budget:reserved", self.expected.budget_reserved),
        ):
            kept = {name.decode(): int(amount) for name, amount in (await self.redis.hgetall(key)).items()}
            assert {name: amount for name, amount in kept.items() if amount} == {n: a for n, a in sums.items() if a}
        known = {attempt.attempt_id for attempt in self.open} | {attempt.attempt_id for attempt, _ in self.ended}
        kept_ids = {name.decode() for name in await self.redis.hkeys("hyd:attempts")}
        assert kept_ids - {one for slice_, _ in self.slices for one in slice_.ids} == known
        for name, ids in self.expected.slots.items():
            assert {one.decode() for one in await self.redis.zrange(name, 0, -1)} == ids
        for kind, sums in (("r", self.expected.requests), ("t", self.expected.tokens)):
            for name, amount in sums.items():
                found = [int(await self.redis.get(key)) async for key in self.redis.scan_iter(f"{name}:{kind}:*")]
                assert sum(found) == amount

    async def step(self, name: str) -> None:
        if name in ("admit", "ahead"):
            await self.admit(ahead=name == "ahead")
        elif name == "take":
            await self.take()
        elif name == "give back":
            await self.give_back()
        elif name == "release":
            await self.release()
        elif name == "finish":
            await self.finish(most=1)
        elif name == "finish several":
            await self.finish(most=40)
        elif name == "replace":
            await self.replace()
        elif name == "checkpoint":
            await self.admission.checkpoint(self.open + [attempt for attempt, _ in self.ended])
        elif name == "close":
            await self.close()
        else:
            self.change_limits()


async def play(url: str, seed: int, steps: list[str], close_script: str) -> int:
    """How many attempts were admitted ahead."""
    async with redis.asyncio.Redis.from_url(url) as client, aclosing(Scripts(client)) as scripts:
        world = World(client, scripts, random.Random(seed), close_script)
        await client.flushall()
        await client.hset("hyd:balance", mapping=world.expected.balance)
        world.change_limits()
        began = (await client.time())[0] // 60
        for name in steps:
            await world.step(name)
            if (await client.time())[0] // 60 != began:
                return 0  # another minute has begun, with counters of its own
            await world.check()
        # However it went: once everything has ended and is in the books, nothing is held.
        while world.open:
            await (world.release() if world.chance.random() < 0.5 else world.finish(most=1))
        while world.ended:
            await world.close()
        while world.slices:
            await world.give_back()
        await world.check()
        assert await client.hlen("hyd:attempts") == 0
        assert not any(world.expected.reserved.values())
        return world.admitted_ahead


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(STEPS), min_size=20, max_size=60))
def test_no_sum_is_ever_off(redis_server: RedisServer, task_modules: Any, seed: int, steps: list[str]) -> None:
    asyncio.run(play(redis_server.url, seed, steps, task_modules.ledger._CLOSE_ATTEMPTS))


def test_the_worlds_of_this_model_are_rich_enough_for_slices(redis_server: RedisServer, task_modules: Any) -> None:
    closing = task_modules.ledger._CLOSE_ATTEMPTS
    counts = [asyncio.run(play(redis_server.url, seed, [*STEPS, *STEPS], closing)) for seed in range(12)]
    assert max(counts) > 0
