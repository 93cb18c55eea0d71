"""Queues whose worker is away do not grow without bound."""

from __future__ import annotations

import threading

import pytest
from celery.beat import ScheduleEntry
from redis import Redis
from support.fake_noded import FakeNoded


@pytest.fixture
def redis(redis_server):
    with Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def app(task_modules, redis_server):
    from tasks.app import make_app

    with make_app(redis_server.url, None) as made:
        yield made


@pytest.fixture
def events(task_modules, app, redis, monkeypatch):
    """The follower of a node, on this test's Redis."""
    from tasks import node_events

    monkeypatch.setattr(node_events, "app", app)
    monkeypatch.setattr(node_events, "_redis", lambda: redis)
    monkeypatch.setattr(node_events, "RETRY_S", 0.01)
    monkeypatch.setattr(node_events, "MAX_WAITING_REPORTS", 3)
    return node_events


def test_a_node_holds_its_reports_back_while_enough_wait_and_goes_on_with_the_newest(events, redis, monkeypatch):
    noded, ended = FakeNoded("n0"), threading.Event()
    asked = []

    def answer(after, wait_s):
        asked.append(after)
        noded.touch()
        if len(asked) == 20:
            redis.delete("control")
        if len(asked) == 40:
            ended.set()
        return noded.report()

    monkeypatch.setattr(noded, "events", answer)
    monkeypatch.setattr(events, "noded", lambda: noded)
    events.follow(ended)
    assert redis.llen("control") == 3
    assert asked[1:4] == [2, 3, 4], "what was sent is not asked for again"
    assert set(asked[4:20]) == {-1}, "what was held back is"


@pytest.mark.parametrize("queue", ["control", "ledger"])
def test_a_lost_acknowledgement_cannot_stop_a_worker_of_one_process(task_modules, queue):
    """There is none: found by killing Redis in each state of a group (tests/e2e/test_stack_kills.py)."""
    from tasks.app import make_app

    assert make_app("redis://localhost", None).amqp.queues[queue].no_ack


def test_a_broker_that_is_away_is_tried_again(events, redis, monkeypatch):
    from redis.exceptions import ConnectionError as RedisAway

    noded, ended = FakeNoded("n0"), threading.Event()
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise RedisAway("no")
        ended.set()
        return redis

    monkeypatch.setattr(noded, "events", lambda after, wait_s: noded.report())
    monkeypatch.setattr(events, "noded", lambda: noded)
    monkeypatch.setattr(events, "_redis", flaky)
    events.follow(ended)
    assert redis.llen("control") == 1


def test_the_clock_adds_no_tick_to_those_that_wait_already(app, redis, tmp_path):
    from tasks.beat import MAX_WAITING_TICKS, BoundedScheduler

    assert app.conf.beat_scheduler == "tasks.beat:BoundedScheduler"
    scheduler = BoundedScheduler(app, schedule_filename=str(tmp_path / "beat"), lazy=True)
    entry = ScheduleEntry("reconcile", "control.reconcile", schedule=2.0, options={"queue": "control"}, app=app)
    for _ in range(MAX_WAITING_TICKS + 5):
        scheduler.apply_async(entry, advance=False)
    assert redis.llen("control") == MAX_WAITING_TICKS
    redis.delete("control")
    scheduler.apply_async(entry, advance=False)
    assert redis.llen("control") == 1
