"""How fast a model is served, learnt from usage in SQL."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from support.registry_rows import add_tenant

from orchestrator.types import Profile
from registry.db import session_scope
from registry.ids import new_id, now_ms
from registry.models import Calibration, Model, ModelUse, Tenant, Usage
from tasks import learning
from tasks.speed import EVERY_MS, study_use


@pytest.fixture
def model_id(bench):
    """Of a model with a worker."""
    model_id = bench.add_model(min_replicas=1)
    bench.settle()
    with session_scope(bench.here.sessions) as session:
        add_tenant(session, "payer")
        session.add(ModelUse(model_id=model_id, busy_until_ms=now_ms(), pauses_ms=[]))
    return model_id


def answer(bench, model_id, count, *, tpot=20, **changes):
    """So many streamed answers, one after the other, by the only worker."""
    (group,) = bench.groups()
    with session_scope(bench.here.sessions) as session:
        tenant_id = session.scalars(select(Tenant.id)).first()
        for i in range(count):
            first = 1_000_000 + i * 10_000
            values = {
                "attempt_id": new_id("att"), "request_id": "r", "tenant_id": tenant_id, "key_id": "k",
                "model_id": model_id, "model_name": "m", "price_id": None, "group_id": group.id,
                "cold_start_id": None, "gateway_id": "g", "lane": "direct", "endpoint": "/v1/chat/completions",
                "stream": True, "prompt_tokens": 5, "cached_tokens": 0, "completion_tokens": 51, "cost_nusd": 0,
                "outcome": "ok", "started_at_ms": first - 150, "first_token_at_ms": first,
                "ended_at_ms": first + 50 * tpot, "held_ms": 0,
            }  # fmt: skip
            session.add(Usage(**(values | changes)))


def look(bench, at_ms=None):
    with session_scope(bench.here.sessions) as session:
        return study_use(session, at_ms or now_ms())


def profile(bench):
    with bench.here.sessions() as session:
        row = session.scalars(select(Calibration).where(Calibration.model_id != "")).one_or_none()
        return None if row is None else row.profile


def test_the_planner_goes_by_what_was_measured(bench, model_id):
    answer(bench, model_id, 10)
    assert look(bench)
    assert profile(bench) == {"prefill_ms": 150, "tpot_ms": 20, "tpot_batch_us": 0}
    spec = bench.load_state().models["m"].spec.on("cpu")
    assert (spec.profile.tpot_ms, spec.profile.prefill_ms) == (20, 150)


def test_a_model_is_looked_at_once_a_minute_while_it_is_used(bench, model_id):
    answer(bench, model_id, 10)
    assert look(bench)
    assert not look(bench)
    later = now_ms() + EVERY_MS + 1
    assert not look(bench, later), "nobody has used it since"
    with session_scope(bench.here.sessions) as session:
        session.get_one(ModelUse, model_id).busy_until_ms = later
    answer(bench, model_id, 30, tpot=40)
    assert look(bench, later)
    assert profile(bench)["tpot_ms"] == 40


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "client_closed"},
        {"first_token_at_ms": None},
        {"stream": False, "tpot": 0},
        {"group_id": "grp_gone"},
        {"model_id": "another"},
    ],
    ids=["broken off", "without a token", "whole", "by a worker that is unknown", "of another model"],
)
def test_what_tells_nothing_teaches_nothing(bench, model_id, changes):
    changes = dict(changes)
    answer(bench, changes.pop("model_id", model_id), 10, **changes)
    look(bench)
    assert profile(bench) is None


def test_what_starts_teach_and_what_usage_teaches_stay_side_by_side(bench, model_id):
    answer(bench, model_id, 10)
    look(bench)
    with session_scope(bench.here.sessions) as session:
        learning._calibrate(session, "cpu", model_id, now_ms())
    assert profile(bench)["tpot_ms"] == 20
    with session_scope(bench.here.sessions) as session:
        model = session.get_one(Model, model_id)
        model.profile = {"prefill_ms": 9, "tail_ms": 77}
        assert learning._profile(session, "cpu", model) == Profile(tpot_ms=20, prefill_ms=150, tail_ms=77)


def test_the_controllers_tick_looks(bench, model_id, monkeypatch):
    from tasks.control import reconcile_now

    answer(bench, model_id, 10)
    monkeypatch.setattr("tasks.control.runtime", lambda: bench.here)
    reconcile_now()
    assert profile(bench)["tpot_ms"] == 20
