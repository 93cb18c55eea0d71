"""What is spent of budgets, in Redis and in alerts: right after every settlement, and after Redis has lost it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs
from support.registry_rows import USAGE_EVENT_COST_NUSD, add_model, add_tenant, current_price, usage_event
from support.watching import watched

from registry.budget_windows import bounds_ms, field, window_at
from registry.db import session_scope
from registry.ids import now_ms
from registry.models import BudgetAlert
from registry.ops import budgets, keys
from registry.ops.money import top_up
from registry.publish import publish_balances

AMOUNT = 10 * USAGE_EVENT_COST_NUSD


class Purse:
    """A tenant with a budget a day and one in total for its key, and the gateway's side of Redis."""

    def __init__(self, here) -> None:
        self.here, self.redis = here, here.redis
        watched(self.redis)
        with session_scope(here.sessions) as session:
            self.tenant = add_tenant(session)
            self.model = add_model(session)
            self.price = current_price(session, self.model)
            self.key, _ = keys.create_key(session, "t", "pepper", tenant_id=self.tenant.id, name="k")
            top_up(session, "t", self.tenant.id, 10**9, "test")
            budgets.set_budget(session, "t", self.tenant.id, "month", amount_nusd=AMOUNT, alert_percent=[10, 50])
            budgets.set_budget(session, "t", self.key.id, "total", amount_nusd=AMOUNT, alert_percent=[])
        self.month = field(self.tenant.id, "month", window_at("month", now_ms()))
        self.total = field(self.key.id, "total", 0)
        self.publish()

    def publish(self) -> None:
        with session_scope(self.here.sessions) as session:
            publish_balances(session, self.redis, [self.tenant.id])

    def event(self, **changes):
        at_ms = now_ms()
        changes = {
            "key_id": self.key.id,
            "started_at_ms": at_ms,
            "ended_at_ms": at_ms,
            "admitted_at_ms": at_ms,
        } | changes
        return usage_event(self.tenant, self.model, self.price, budgets=[self.month, self.total], **changes)

    def admit(self, event) -> None:
        """What the gateway's scripts leave of an admitted attempt."""
        record = {name: value for name, value in event.items() if name not in ("outcome", "ended_at_ms")}
        self.redis.hset("hyd:attempts", event["attempt_id"], json.dumps(record))
        self.redis.hincrby("hyd:reserved", event["tenant_id"], event["reserved_nusd"])
        for name in event["budgets"]:
            self.redis.hincrby("hyd:budget:reserved", name, event["reserved_nusd"])

    def deliver(self, *events) -> None:
        from tasks import ledger

        for event in events:
            self.redis.xadd("hyd:usage", {"event": json.dumps(event)})
        ledger.drain_stream(self.here)

    def sweep(self) -> None:
        from tasks import ledger

        ledger.sweep()

    @property
    def alerts(self):
        with self.here.sessions() as session:
            rows = session.scalars(select(BudgetAlert).order_by(BudgetAlert.percent)).all()
        return [(row.scope_id, row.percent) for row in rows]

    def assert_spent(self, times: int) -> None:
        """So many attempts of the usual size are counted in both budgets, and nothing is held any more."""
        spent = str(times * USAGE_EVENT_COST_NUSD).encode()
        assert self.redis.hmget("hyd:budget:spent", self.month, self.total) == [spent, spent]
        assert self.redis.hgetall("hyd:budget:reserved") == self.redis.hgetall("hyd:attempts") == {}


@pytest.fixture
def purse(here) -> Purse:
    return Purse(here)


def test_a_settled_attempt_is_spent_and_no_longer_reserved(purse):
    purse.assert_spent(0)
    event = purse.event()
    purse.admit(event)
    purse.deliver(event, event)
    purse.assert_spent(1)


def test_the_next_window_is_there_before_it_begins(purse):
    following = field(purse.tenant.id, "month", window_at("month", now_ms()) + 1)
    assert purse.redis.hget("hyd:budget:spent", following) == b"0"


def test_an_attempt_counts_in_the_month_in_which_it_was_admitted(purse):
    month_began = bounds_ms("month", window_at("month", now_ms()))[0]
    purse.deliver(purse.event(admitted_at_ms=month_began - 1), purse.event(admitted_at_ms=month_began))
    assert int(purse.redis.hget("hyd:budget:spent", purse.month)) == USAGE_EVENT_COST_NUSD
    assert int(purse.redis.hget("hyd:budget:spent", purse.total)) == 2 * USAGE_EVENT_COST_NUSD


def test_a_dead_gateways_attempt_is_spent_up_to_its_checkpoint_and_its_true_end_adds_the_rest(purse):
    event = purse.event(started_at_ms=now_ms() - 60_000)
    purse.admit(event | {"completion_tokens": 4})
    purse.sweep()
    lost = USAGE_EVENT_COST_NUSD - 6 * 80
    assert int(purse.redis.hget("hyd:budget:spent", purse.month)) == lost
    assert purse.redis.hgetall("hyd:budget:reserved") == {}
    purse.deliver(event)
    purse.assert_spent(1)


def test_a_lost_redis_gets_what_was_spent_from_sql(purse):
    purse.deliver(purse.event(), purse.event())
    purse.redis.flushall()
    purse.sweep()
    purse.assert_spent(2)


def test_what_is_over_is_forgotten_and_an_older_reading_never_replaces_a_newer(purse):
    old = field(purse.tenant.id, "month", window_at("month", now_ms()) - 1)
    purse.redis.hset("hyd:budget:spent", mapping={old: 5, purse.total: 10**17})
    purse.publish()
    purse.sweep()
    assert purse.redis.hget("hyd:budget:spent", old) is None
    assert int(purse.redis.hget("hyd:budget:spent", purse.total)) == 10**17


def test_a_budget_made_in_the_middle_counts_what_was_spent_before(purse):
    purse.deliver(purse.event())
    with session_scope(purse.here.sessions) as session:
        budgets.set_budget(session, "t", purse.tenant.id, "day", amount_nusd=1)
    purse.sweep()
    today = field(purse.tenant.id, "day", window_at("day", now_ms()))
    assert int(purse.redis.hget("hyd:budget:spent", today)) == USAGE_EVENT_COST_NUSD
    assert purse.alerts == [(purse.tenant.id, 10), (purse.tenant.id, 80)]


def test_each_threshold_alerts_once(purse):
    purse.deliver(purse.event())
    assert purse.alerts == [(purse.tenant.id, 10)]
    purse.deliver(*(purse.event() for _ in range(4)))
    purse.sweep()
    purse.deliver(purse.event())
    assert purse.alerts == [(purse.tenant.id, 10), (purse.tenant.id, 50)]


def test_an_alert_is_logged_with_names_and_ids(purse) -> None:
    with session_scope(purse.here.sessions) as session:
        budgets.set_budget(session, "t", purse.key.id, "total", amount_nusd=AMOUNT, alert_percent=[10])
    with capture_logs() as logs:
        purse.deliver(purse.event())
    told = {line["scope_id"]: line for line in logs if line["event"] == "a budget's threshold is reached"}
    assert {id_: (line["tenant"], line["key"], line["tenant_id"]) for id_, line in told.items()} == {
        purse.tenant.id: ("acme", None, purse.tenant.id),
        purse.key.id: ("acme", "k", purse.tenant.id),
    }
