"""What starts cost, on real databases and Redis: split once, exactly, over those who waited, whatever dies when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from sqlalchemy import func, select
from support.celery_processes import ROOT
from support.priced_starts import READY_AFTER_MS, STARTUP_GPU_US, add_start, waiter
from support.registry_rows import USAGE_EVENT_COST_NUSD, add_model, add_tenant, current_price
from support.watching import watched

from registry.budget_windows import field, window_at
from registry.db import session_scope
from registry.ids import now_ms
from registry.models import ColdStartShare, GroupCost, LedgerEntry, Model
from registry.months import month_of
from registry.ops import budgets, invoices, keys, ledger, models, prices
from registry.ops.cost_queries import model_time, start_cost, tenant_waits
from registry.ops.money import balance_nusd
from registry.ops.usage import UsageFilter

GPU_SECOND_NUSD = 250_001
START_NUSD = STARTUP_GPU_US * GPU_SECOND_NUSD // 1_000_000


class Starts:
    """Three tenants, a model that charges for starts, and one start that is over."""

    def __init__(self, here, **options) -> None:
        self.here = here
        self.redis = here.redis
        watched(self.redis)
        with session_scope(here.sessions) as session:
            self.tenants = [add_tenant(session, name) for name in ("a", "b", "c")]
            self.model = add_model(session, gpu_second_nusd=GPU_SECOND_NUSD, charge_cold_starts=True)
            self.price = current_price(session, self.model)
            # So that the price was in force when the start began.
            self.price.from_ms = 0
            session.flush()
            self.group = add_start(session, self.model, **options)

    def waited(self, tenant: int, **changes):
        return waiter(self.group, self.tenants[tenant], self.model, self.price, **changes)

    def settle(self, *events) -> None:
        with session_scope(self.here.sessions) as session:
            assert not ledger.settle(session, events).rejected

    def complete(self) -> int:
        from tasks.costs import complete_costs

        return complete_costs(self.here)

    def cost(self):
        with self.here.sessions() as session:
            return start_cost(session, self.group.cold_start_id)

    def shares(self) -> dict[str, int]:
        return {share.tenant: share.cost_nusd for share in self.cost().shares}

    def charges(self) -> dict[str, int]:
        with self.here.sessions() as session:
            rows = session.scalars(select(LedgerEntry).where(LedgerEntry.cold_start_id.is_not(None))).all()
        names = {tenant.id: tenant.name for tenant in self.tenants}
        assert len({row.tenant_id for row in rows}) == len(rows)
        return {names[row.tenant_id]: -row.amount_nusd for row in rows}


@pytest.fixture
def starts(here) -> Starts:
    return Starts(here)


def test_a_start_is_split_over_the_requests_that_waited_and_charged_once(starts):
    starts.settle(*(starts.waited(0) for _ in range(2)), starts.waited(1))
    assert starts.complete() == 1
    shares = starts.shares()
    assert sum(shares.values()) == START_NUSD == 1_000_004
    assert shares == {"a": 666_669, "b": 333_335}
    assert starts.charges() == shares
    found = starts.cost()
    assert (found.startup_gpu_us, found.startup_nusd, found.waited) == (STARTUP_GPU_US, START_NUSD, 3)
    assert sum(share.gpu_us for share in found.shares) == STARTUP_GPU_US
    for tenant, requests in ((starts.tenants[0], 2), (starts.tenants[1], 1)):
        with starts.here.sessions() as session:
            balance = balance_nusd(session, tenant.id)
        assert balance == -requests * USAGE_EVENT_COST_NUSD - shares[tenant.name]
        assert int(starts.redis.hget("hyd:balance", tenant.id)) == balance
    assert starts.complete() == 0
    assert starts.charges() == shares


def test_only_those_pay_who_waited_for_it_and_were_served(starts):
    ready = starts.group.ready_at_ms
    starts.settle(
        starts.waited(0),
        starts.waited(1, outcome="upstream_error"),
        starts.waited(1, outcome="gateway_lost"),
        starts.waited(1, outcome="client_closed", completion_tokens=0),
        starts.waited(1, held_ms=0),
        starts.waited(1, started_at_ms=ready),
        starts.waited(1, cold_start_id=None),
        starts.waited(2, outcome="client_closed"),
    )
    starts.complete()
    assert starts.shares() == {"a": START_NUSD // 2, "c": START_NUSD // 2}


def test_a_start_for_which_nobody_waited_is_the_models_alone(starts):
    assert starts.complete() == 1
    found = starts.cost()
    assert (found.waited, found.shares, found.startup_nusd) == (0, [], START_NUSD)
    assert starts.charges() == {}
    with starts.here.sessions() as session:
        assert model_time(session, starts.model.id, 0).startup_gpu_us == STARTUP_GPU_US


@pytest.mark.parametrize("options", [{"ready": False}, {"cause": "consolidation"}], ids=["failed", "consolidation"])
def test_a_start_that_served_no_waiter_charges_nobody(here, options):
    starts = Starts(here, **options)
    starts.settle(starts.waited(0, started_at_ms=starts.group.created_at_ms))
    assert starts.complete() == 1
    assert starts.cost().startup_gpu_us == STARTUP_GPU_US
    assert starts.charges() == starts.shares() == {}


def test_without_the_setting_shares_are_shown_and_not_charged(starts):
    with session_scope(starts.here.sessions) as session:
        session.get_one(GroupCost, starts.group.id).chargeable = False
    starts.settle(starts.waited(0))
    starts.complete()
    assert starts.shares() == {"a": START_NUSD}
    assert starts.charges() == {}
    with starts.here.sessions() as session:
        (row,) = tenant_waits(session, UsageFilter(tenant_id=starts.tenants[0].id))
        assert tenant_waits(session, UsageFilter(tenant_id=starts.tenants[1].id)) == []
    assert (row.starts, row.requests, row.cost_nusd, row.charged_nusd) == (1, 1, START_NUSD, 0)


def test_price_and_setting_are_those_with_which_the_start_began(starts):
    with session_scope(starts.here.sessions) as session:
        models.update_model(session, "t", starts.model.id, charge_cold_starts=False)
        prices.set_price(session, "t", starts.model.id, input_nusd=1, output_nusd=1, gpu_second_nusd=10**10)
    starts.settle(starts.waited(0))
    starts.complete()
    assert starts.charges() == {"a": START_NUSD}


def test_a_start_is_split_only_when_all_that_waited_are_settled(starts):
    last = starts.waited(1)
    starts.redis.hset("hyd:attempts", last["attempt_id"], json.dumps(last))
    starts.settle(starts.waited(0))
    assert starts.complete() == 0
    assert starts.cost().startup_gpu_us == STARTUP_GPU_US, "what it cost is known before who pays"
    starts.settle(last)
    starts.redis.hdel("hyd:attempts", last["attempt_id"])
    assert starts.complete() == 1
    assert starts.charges() == {"a": START_NUSD // 2, "b": START_NUSD // 2}


def test_open_attempts_that_came_when_it_was_ready_hold_no_split_up(starts):
    queued = starts.waited(1, started_at_ms=starts.group.ready_at_ms)
    starts.redis.hset("hyd:attempts", queued["attempt_id"], json.dumps(queued))
    starts.settle(starts.waited(0))
    assert starts.complete() == 1
    assert starts.charges() == {"a": START_NUSD}


@pytest.mark.parametrize("trouble", ["just ready", "redis was away"])
def test_a_start_is_not_split_while_more_that_waited_may_show(starts, trouble):
    if trouble == "just ready":
        with session_scope(starts.here.sessions) as session:
            session.merge(starts.group).ready_at_ms = now_ms() - 170_000
    else:
        watched(starts.redis, since_ms=now_ms() - 170_000)
    starts.settle(starts.waited(0))
    assert starts.complete() == 0
    assert starts.shares() == {}


def test_who_comes_late_pays_nothing_and_moves_nothing(starts):
    starts.settle(starts.waited(0))
    starts.complete()
    starts.settle(starts.waited(1), starts.waited(0))
    assert starts.complete() == 0
    assert starts.charges() == starts.shares() == {"a": START_NUSD}


def test_the_time_of_service_is_told_when_the_group_has_stopped(here):
    starts = Starts(here, stopped_after_ms=READY_AFTER_MS + 100_000)
    begin = starts.group.ready_at_ms
    for start, end in ((0, 5_000), (2_000, 9_000), (90_000, 200_000)):
        times = {"started_at_ms": begin + start, "held_ms": 0, "ended_at_ms": begin + end}
        starts.settle(starts.waited(0, **times))
    starts.complete()
    found = starts.cost()
    assert (found.busy_gpu_us, found.idle_gpu_us) == (19_000_000, 81_000_000)
    with here.sessions() as session:
        assert session.get_one(GroupCost, starts.group.id).closed_at_ms is not None


@pytest.mark.parametrize("point", ["ledger.costs_written", "ledger.costs_committed"])
def test_a_ledger_killed_while_it_charges_charges_once(starts, point):
    starts.settle(starts.waited(0), starts.waited(1), starts.waited(2))
    url = starts.here.sessions.kw["bind"].url.render_as_string(hide_password=False)
    socket = starts.redis.connection_pool.connection_kwargs["path"]
    env = os.environ | {"DATABASE_URL": url, "REDIS_URL": f"unix://{socket}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from tasks.costs import costs; costs()"]
    died = subprocess.run(command, env=env | {"HYDRANT_FAILPOINT": point}, cwd=ROOT, capture_output=True, timeout=60)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (starts.charges() != {}) == (point == "ledger.costs_committed")
    starts.complete()
    # What does not divide goes to the first by id.
    first, second, third = (tenant.name for tenant in sorted(starts.tenants, key=lambda tenant: tenant.id))
    assert starts.charges() == {first: 333_335, second: 333_335, third: 333_334}
    from tasks import ledger as ledger_tasks

    ledger_tasks.sweep()
    with starts.here.sessions() as session:
        for tenant in starts.tenants:
            assert int(starts.redis.hget("hyd:balance", tenant.id)) == balance_nusd(session, tenant.id)


def test_two_ledgers_at_once_charge_once(starts):
    starts.settle(starts.waited(0), starts.waited(1))
    failures = []

    def work() -> None:
        try:
            starts.complete()
        except Exception as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sum(starts.charges().values()) == START_NUSD
    with starts.here.sessions() as session:
        assert session.scalar(select(func.count()).select_from(ColdStartShare)) == 2


def test_the_controller_opens_the_cost_of_each_group_that_it_starts(bench):
    model_id = bench.add_model(charge_cold_starts=True)
    bench.gateway.beat()
    bench.gateway.activity("m", waiting=1)
    bench.run()
    with bench.here.sessions() as session:
        cost = session.scalars(select(GroupCost)).one()
        assert (cost.model_id, cost.chargeable, cost.startup_gpu_us) == (model_id, True, None)
        assert cost.price_id == current_price(session, session.get_one(Model, model_id)).id


def spent_of(starts: Starts, scope_id: str) -> int:
    return int(starts.redis.hget("hyd:budget:spent", field(scope_id, "month", window_at("month", now_ms()))))


def test_a_charge_counts_in_its_tenants_budget_and_in_no_keys(starts):
    from tasks import ledger as ledger_tasks

    tenant = starts.tenants[0]
    with session_scope(starts.here.sessions) as session:
        key, _ = keys.create_key(session, "t", "pepper", tenant_id=tenant.id, name="k")
        for scope_id in (tenant.id, key.id):
            amount = START_NUSD + USAGE_EVENT_COST_NUSD
            budgets.set_budget(session, "t", scope_id, "month", amount_nusd=amount, alert_percent=[100])
    starts.settle(starts.waited(0, key_id=key.id, admitted_at_ms=now_ms()))
    starts.complete()
    assert spent_of(starts, tenant.id) == START_NUSD + USAGE_EVENT_COST_NUSD
    assert spent_of(starts, key.id) == USAGE_EVENT_COST_NUSD
    with starts.here.sessions() as session:
        (alert,) = budgets.list_alerts(session)
        assert (alert.scope_id, alert.spent_nusd) == (tenant.id, START_NUSD + USAGE_EVENT_COST_NUSD)
        assert -invoices.invoice(session, tenant.id, month_of(now_ms()))["closing_nusd"] == spent_of(starts, tenant.id)
    starts.redis.flushdb()
    ledger_tasks.sweep()
    assert spent_of(starts, tenant.id) == START_NUSD + USAGE_EVENT_COST_NUSD


def test_a_share_that_is_not_charged_is_in_no_budget(starts):
    from tasks import ledger as ledger_tasks

    with session_scope(starts.here.sessions) as session:
        session.get_one(GroupCost, starts.group.id).chargeable = False
        budgets.set_budget(session, "t", starts.tenants[0].id, "month", amount_nusd=1)
    starts.settle(starts.waited(0, admitted_at_ms=now_ms()))
    starts.complete()
    ledger_tasks.sweep()
    assert spent_of(starts, starts.tenants[0].id) == USAGE_EVENT_COST_NUSD
