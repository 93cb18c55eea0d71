"""The Celery application: every message is a hint, and nothing but JSON is read."""

import logging
from collections import Counter

import pytest


@pytest.fixture
def make_app(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRANT_HOME", str(tmp_path))
    monkeypatch.delenv("HYDRANT_NODE", raising=False)
    from tasks.app import make_app

    return make_app


def test_only_json_is_accepted_and_nothing_is_kept_or_redelivered(make_app):
    conf = make_app("unix:///run/r.sock", None).conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_ignore_result
    # A late acknowledgement would have Redis hand a long task out again after its visibility timeout.
    assert not conf.task_acks_late


def test_a_unix_socket_is_named_as_kombu_wants_it(make_app):
    assert make_app("unix:///run/r.sock", None).conf.broker_url == "redis+socket:///run/r.sock"
    assert make_app("redis://h:6379/1", None).conf.broker_url == "redis://h:6379/1"


def test_celery_says_what_its_level_lets_through_and_tasks_all(make_app):
    from tasks.app import log_as_all

    root, celery = logging.getLogger(), logging.getLogger("celery")
    before = root.handlers[:], root.level, celery.level
    try:
        log_as_all(loglevel=logging.WARNING, logfile=None, format="", colorize=False)
        assert not logging.getLogger("celery.app.trace").isEnabledFor(logging.INFO)
        assert logging.getLogger("celery.worker").isEnabledFor(logging.WARNING)
        assert logging.getLogger("tasks.invoices").isEnabledFor(logging.INFO)
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        celery.setLevel(before[2])


def test_a_nodes_worker_has_no_task_that_opens_the_database(make_app):
    assert make_app("redis://h", "n0").conf.include == ["tasks.node", "tasks.node_events"]


@pytest.mark.parametrize(("tick", "queue"), [("reconcile", "control"), ("drain", "ledger"), ("sweep", "ledger")])
def test_ticks_that_pile_up_expire(make_app, tick, queue):
    entry = make_app("redis://h", None).conf.beat_schedule[tick]
    assert entry["options"]["queue"] == queue
    assert entry["options"]["expires"] == 2 * entry["schedule"]


def test_a_failpoint_does_nothing_unless_it_is_named(monkeypatch):
    from tasks.failpoints import reach

    monkeypatch.delenv("HYDRANT_FAILPOINT", raising=False)
    reach("ledger.committed")
    monkeypatch.setenv("HYDRANT_FAILPOINT", "ledger.settled")
    reach("ledger.committed")


@pytest.mark.parametrize(("wanted", "survived"), [("a", 0), ("a:1", 0), ("a:3", 2)])
def test_a_failpoint_may_be_survived_a_few_times(monkeypatch, wanted, survived):
    from tasks import failpoints

    class Died(BaseException):
        pass

    def die(_pid, _signal):
        raise Died

    monkeypatch.setenv("HYDRANT_FAILPOINT", wanted)
    monkeypatch.setattr(failpoints, "_hits", Counter())
    monkeypatch.setattr(failpoints.os, "kill", die)
    for _ in range(survived):
        failpoints.reach("a")
        failpoints.reach("b")
    with pytest.raises(Died):
        failpoints.reach("a")
