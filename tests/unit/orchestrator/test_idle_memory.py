"""Workers that stay beyond their set keep-alive share a budget of memory, and who is worth most of it stays."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clusters import GB, NOW, a_node
from support.control_state import SMALL, a_plan, group, model, stage, state

from orchestrator.control import Move, Start, Wait
from orchestrator.groups import Cause
from orchestrator.idle_memory import budget_bytes, held_bytes
from orchestrator.keep_alive import returns_per_ms
from orchestrator.lifecycle import GroupState
from orchestrator.policies import HYDRANT
from orchestrator.reconcile import reconcile
from orchestrator.why import Why, WhyCode

SIZE = SMALL.weights_bytes + SMALL.kv_reserve_bytes
"""2 GB, a worker of SMALL."""
SET = 60_000
UNUSED = 70_000


def idle_model(name, come_back_ms, **changes):
    """Unused for longer than its set keep-alive; it has always come back after so long, and is kept for that."""
    values = {"keep_alive_ms": SET, "last_request_ms": NOW - UNUSED, "pauses_ms": (come_back_ms,) * 16}
    return model(name, **(values | changes))


def worker(name, node="n0", **changes):
    values = {"group_id": f"grp_{name}", "model": name, "ready_ms": NOW - 10**6, "last_used_ms": NOW - UNUSED}
    return group(GroupState.STANDALONE, stage(node=node), **(values | changes))


def full(*names):
    """Nodes of 80 GB that have nothing free."""
    return [a_node(name, free_gb=(0,)) for name in names or ("n0",)]


def policy(workers):
    """Memory for so many workers beyond their keep-alives, on one node of 80 GB."""
    return replace(HYDRANT, idle_percent=-(-workers * SIZE * 100 // (80 * GB)))


def ended(decisions):
    return {decision.group_id: decision.why for decision in decisions if isinstance(decision, Move)}


def test_the_one_that_is_likely_to_be_asked_for_sooner_stays():
    models = [idle_model("soon", 75_000), idle_model("later", 140_000)]
    there = state(worker("soon"), worker("later"), models=models, nodes=full())
    assert held_bytes(there) == 2 * SIZE
    assert ended(reconcile(there, policy(2))) == {}
    why = Why(
        WhyCode.IDLE_BUDGET,
        {"idle_ms": UNUSED, "set_ms": SET, "held_bytes": SIZE, "budget_bytes": budget_bytes(there, policy(1))},
    )
    assert ended(reconcile(there, policy(1))) == {"grp_later": why}
    assert set(ended(reconcile(there, policy(0)))) == {"grp_soon", "grp_later"}


def test_the_one_whose_start_takes_longer_stays():
    models = [idle_model("a", 100_000), idle_model("b", 100_000)]
    slow = worker("b", plan=a_plan(name="b", predicted_ttft_ms=9_000))
    quick = worker("a", plan=a_plan(name="a", predicted_ttft_ms=9_000, waited_ms=7_000))
    assert set(ended(reconcile(state(quick, slow, models=models, nodes=full()), policy(1)))) == {"grp_a"}


def test_the_one_that_holds_less_memory_stays():
    models = [idle_model("a", 100_000), idle_model("b", 100_000)]
    pair = worker("a", plan=a_plan(("n0",), ("n0",), name="a"))
    assert set(ended(reconcile(state(pair, worker("b"), models=models, nodes=full()), policy(1)))) == {"grp_a"}


def test_of_equals_the_one_that_was_used_last_stays_and_then_the_first_by_name():
    models = [idle_model(name, 100_000) for name in "abc"]
    older = worker("a", last_used_ms=NOW - UNUSED - 1)
    there = state(older, worker("c"), worker("b"), models=models, nodes=full())
    assert set(ended(reconcile(there, policy(2)))) == {"grp_a"}
    assert set(ended(reconcile(there, policy(1)))) == {"grp_a", "grp_c"}


def test_of_two_workers_of_one_model_the_next_request_needs_one():
    first, second = worker("soon"), worker("soon", group_id="grp_more", last_used_ms=NOW - UNUSED - 5)
    models = [idle_model("soon", 75_000), idle_model("later", 140_000)]
    there = state(first, second, worker("later"), models=models, nodes=full())
    assert set(ended(reconcile(there, policy(2)))) == {"grp_more"}


@pytest.mark.parametrize(
    ("there", "view"),
    [
        (worker("m"), idle_model("m", 100_000, last_request_ms=NOW - SET + 1)),
        (worker("m", running=1), idle_model("m", 100_000)),
        (worker("m"), idle_model("m", 100_000, waiting=1, oldest_waiting_ms=NOW)),
        (worker("m"), idle_model("m", 100_000, min_replicas=1)),
        (worker("m"), idle_model("m", 100_000, warm_until_ms=NOW + 1)),
    ],
    ids=["within its keep-alive", "busy", "asked for", "min replicas", "warm"],
)
def test_no_other_worker_is_of_the_budgets_business(there, view):
    now = state(there, models=[view], nodes=full())
    assert held_bytes(now) == 0
    assert WhyCode.IDLE_BUDGET not in {why and why.code for why in ended(reconcile(now, policy(0))).values()}


def test_while_gateways_are_not_heard_nobody_is_idle():
    now = state(worker("m"), models=[idle_model("m", 100_000)], nodes=full(), gateways_known=False)
    assert (held_bytes(now), reconcile(now, policy(0))) == (0, [])


def test_only_where_something_has_changed_all_are_weighed():
    models = [idle_model("soon", 75_000), idle_model("later", 140_000), model("other")]
    there = state(worker("soon"), worker("later"), models=models, nodes=full())
    assert reconcile(there, policy(1), ["other"]) == []
    assert set(ended(reconcile(there, policy(1), ["soon"]))) == {"grp_later"}


# --- where nobody needs the memory ------------------------------------------------------------------------------------


def test_one_long_pause_ends_no_worker_at_once_where_memory_is_plenty():
    once = model("m", keep_alive_ms=SET, last_request_ms=NOW - 20_000, pauses_ms=(3_600_000,))
    there = worker("m", last_used_ms=NOW - 20_000)
    free, taken = state(there, models=[once]), state(there, models=[once], nodes=full())
    assert reconcile(free) == []
    why = Why(WhyCode.IDLE, {"idle_ms": 20_000, "keep_alive_ms": 1_000})
    assert ended(reconcile(taken)) == {"grp_m": why}
    assert ended(reconcile(replace(free, now_ms=NOW + 10_000))) == {
        "grp_m": Why(WhyCode.IDLE, {"idle_ms": 30_000, "keep_alive_ms": SET // 2})
    }


# --- workers for requests that are only expected ----------------------------------------------------------------------


def expected_model(**changes):
    values = {"last_request_ms": NOW - 3_590_000, "pauses_ms": (3_600_000,) * 16}
    return idle_model("clock", 0, expected_ms=(NOW + 1_000, NOW + 60_000), **(values | changes))


def prewarmed(state_=GroupState.STANDALONE):
    changes = {"cause": Cause.PREWARM, "last_used_ms": None}
    return replace(worker("clock", ready_ms=NOW - 1, **changes), state=state_)


@pytest.mark.parametrize("state_", [GroupState.STARTING, GroupState.STANDALONE])
def test_one_that_was_started_ahead_counts_from_the_beginning(state_):
    models = [expected_model(), idle_model("soon", 75_000)]
    there = state(prewarmed(state_), worker("soon"), models=models, nodes=full())
    assert held_bytes(there) == 2 * SIZE
    assert len([why for why in ended(reconcile(there, policy(1))).values() if why is not None]) == 1


def test_one_is_started_ahead_where_the_budget_has_room_for_it_or_better_use_in_it():
    nodes = [a_node("n0", free_gb=(8,))]
    alone = state(models=[expected_model()], nodes=nodes)
    (start,) = reconcile(alone, policy(1))
    assert (type(start), start.cause) == (Start, Cause.PREWARM)
    (wait,) = reconcile(alone, policy(0))
    assert (type(wait), wait.cause) == (Wait, Cause.PREWARM)
    assert wait.retry_at_ms > NOW
    for come_back_ms, kind in ((75_000, Wait), (140_000, Start)):
        held = state(worker("m"), models=[expected_model(), idle_model("m", come_back_ms)], nodes=nodes)
        assert [type(one) for one in reconcile(held, policy(1))] == [kind], come_back_ms


# --- the measure ------------------------------------------------------------------------------------------------------


def test_what_a_millisecond_of_idle_memory_buys():
    assert returns_per_ms((), 0) == 0
    assert returns_per_ms([100], 100) == 0, "it has been unused for longer than ever"
    assert returns_per_ms([100], 0) == 1 / 200, "and once it will not come back"
    assert returns_per_ms([100] * 9, 0) == 9 / 1_000
    assert returns_per_ms([100] * 9, 90) == 9 / 100, "the nearer, the more"
    assert returns_per_ms([10, 10_000], 0) == 1 / 30, "nobody need wait for the long one"


@given(st.lists(st.integers(0, 10**6), max_size=32), st.integers(0, 10**6))
def test_it_is_the_best_of_all_times_to_wait(pauses, unused_ms):
    left = [pause - unused_ms for pause in pauses if pause > unused_ms]
    rates = [sum(one <= time for one in left) / (sum(min(one, time) for one in left) + time) for time in left]
    assert returns_per_ms(pauses, unused_ms) == pytest.approx(max(rates, default=0))
