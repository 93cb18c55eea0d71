"""When each worker was last used, as SQL remembers it."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select

from registry.db import session_scope
from registry.ids import now_ms
from registry.models import ColdStart, Model, ModelUse
from registry.ops.models import stop_now


def workers(bench):
    """The standalone workers; two of them begin as a pipeline, which is over by then."""
    return [group for group in bench.groups() if group.state == "standalone"]


def test_only_the_worker_that_runs_a_request_counts_as_used_and_the_other_one_leaves(bench):
    bench.add_model(min_replicas=2, keep_alive_s=60)
    bench.settle()
    _, second = workers(bench)
    bench.change_model(min_replicas=0)
    bench.age_groups(120_000)
    bench.gateway.activity("m", groups={second.id: 1})
    bench.settle()
    (left,) = workers(bench)
    assert left.id == second.id
    assert left.last_used_at_ms > second.created_at_ms


def test_a_request_too_short_to_be_seen_counts_for_the_worker_that_was_used_last(bench):
    bench.add_model(min_replicas=2)
    bench.settle()
    bench.gateway.activity("m", groups={workers(bench)[0].id: 1})
    bench.run()
    bench.age_groups(30_000)
    before, unused = (group.last_used_at_ms for group in workers(bench))
    bench.gateway.activity("m")
    bench.run()
    after, still_unused = (group.last_used_at_ms for group in workers(bench))
    assert after > before
    assert still_unused is unused is None


def test_a_pipeline_on_devices_too_small_for_both_drains_and_its_worker_takes_its_memory(bench, monkeypatch):
    from support import fake_noded

    # A stage takes half of what a whole worker does, and a device holds one worker only.
    monkeypatch.setattr(fake_noded, "MEMORY_BYTES", 600_000)
    bench.report()
    bench.add_model(split=True)
    bench.gateway.activity("m", waiting=1)
    bench.settle()
    assert bench.states() == ["pipeline"]
    kept = [node.devices[0].free_bytes for node in bench.load_state().nodes]
    assert min(kept) == 600_000 - max(
        group.plan["consolidate"]["targets"][0]["memory_bytes"] for group in bench.groups()
    )
    bench.gateway.activity("m", last_request_at_ms=0)
    bench.age_groups(60_000)
    bench.settle()
    assert bench.states() == ["stopped", "standalone"]
    pipeline, worker = bench.groups()
    assert worker.parent_id == pipeline.id
    assert bench.fetched_in_background()[worker.id] is False, "requests would wait for it"


def an_unused_worker(bench, mode, *pauses_ms):
    """Of a model with a keep-alive of a minute; the ledger has noted these pauses of it."""
    bench.add_model(min_replicas=1, keep_alive_s=60)
    bench.settle()
    with session_scope(bench.here.sessions) as session:
        model_id = session.scalars(select(Model.id)).one()
        session.add(ModelUse(model_id=model_id, busy_until_ms=1, pauses_ms=list(pauses_ms)))
    bench.change_model(min_replicas=0, keep_alive_mode=mode)


def test_a_worker_is_kept_for_as_long_as_its_models_pauses_make_it_worth(bench):
    an_unused_worker(bench, "learned", *[90_000] * 8)
    bench.age_groups(100_000)
    bench.settle()
    assert bench.states() == ["standalone"], "most pauses end after a minute and a half"
    bench.age_groups(20_000)
    bench.settle()
    assert bench.states() == ["stopped"]


def test_beyond_the_keep_alive_that_was_set_it_stays_within_the_budget_of_idle_memory(bench):
    an_unused_worker(bench, "learned", *[90_000] * 8)
    bench.age_groups(70_000)
    bench.settle()
    assert bench.states() == ["standalone"]
    nothing = bench.here.settings.model_copy(update={"idle_memory_percent": 0})
    bench.here = replace(bench.here, settings=nothing)
    bench.settle()
    assert bench.states() == ["stopped"]
    (group,) = bench.groups()
    assert group.why["code"] == "idle_budget"


def test_a_worker_leaves_early_where_nobody_comes_back_soon(bench):
    an_unused_worker(bench, "learned", *[9_000_000] * 8)
    bench.age_groups(20_000)
    bench.settle()
    assert bench.states() == ["stopped"]


def test_a_fixed_keep_alive_is_what_people_have_set_whatever_the_pauses_are(bench):
    an_unused_worker(bench, "fixed", *[90_000] * 8)
    bench.age_groups(70_000)
    bench.settle()
    assert bench.states() == ["stopped"]


def expect(bench, from_ms, until_ms):
    """The ledger has found that the model will be asked for then, from now on."""
    bench.add_model(keep_alive_s=60, keep_alive_mode="learned")
    with session_scope(bench.here.sessions) as session:
        model_id = session.scalars(select(Model.id)).one()
        now = now_ms()
        use = ModelUse(model_id=model_id, busy_until_ms=1, pauses_ms=[9_000_000] * 8)
        use.expected_from_ms, use.expected_until_ms = now + from_ms, now + until_ms
        session.add(use)
    return model_id


def expect_no_more(bench):
    with session_scope(bench.here.sessions) as session:
        session.scalars(select(ModelUse)).one().expected_until_ms = now_ms() - 1


def test_a_worker_is_there_before_the_request_that_is_expected_and_leaves_when_none_comes(bench):
    expect(bench, 1_000, 60_000)
    bench.settle()
    assert bench.states() == ["standalone"]
    with bench.here.sessions() as session:
        assert session.scalars(select(ColdStart.cause)).all() == ["prewarm"]
    assert bench.here.redis.hgetall("hyd:coldstart") == {}
    bench.age_groups(20_000)
    bench.settle()
    assert bench.states() == ["standalone"], "its keep-alive is a second"
    expect_no_more(bench)
    bench.settle()
    assert bench.states() == ["stopped"]


def test_gateways_are_told_nothing_of_a_start_that_may_come_later(bench):
    expect(bench, 500_000, 600_000)
    bench.settle()
    assert bench.states() == []
    assert bench.here.redis.hgetall("hyd:coldstart") == {}


def test_a_model_that_was_told_to_stop_is_not_expected(bench):
    model_id = expect(bench, 1_000, 60_000)
    with session_scope(bench.here.sessions) as session:
        stop_now(session, "somebody", model_id)
    bench.settle()
    assert bench.states() == []
    bench.gateway.activity("m", waiting=1)
    bench.settle()
    assert bench.states() == ["standalone"]


def test_a_fixed_keep_alive_expects_nobody(bench):
    expect(bench, 1_000, 60_000)
    bench.change_model(keep_alive_mode="fixed")
    bench.settle()
    assert bench.states() == []
