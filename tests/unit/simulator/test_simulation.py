"""Whole simulations: what a request gets, what the cluster holds, that nothing is over-committed or forgotten."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulations import GB, OVERLAPPED, ask, clusters, request_lists, servers, sim_model, simulate

from orchestrator.idle_memory import budget_bytes, held_bytes
from orchestrator.lifecycle import GroupState
from orchestrator.policies import HYDRANT, POLICIES
from orchestrator.simulator.host_cache import Keeps
from orchestrator.simulator.simulation import ENGINES, Engine, Simulation
from orchestrator.simulator.startup import Style

PREFILL_MS = 100


def first_tokens(simulation):
    return [one.ttft_ms for one in simulation.served]


@pytest.mark.parametrize(
    ("policy", "ttft_ms"),
    [
        ("serverless-vllm", 10_000 + 8_000 + 8_000),
        ("serverlessllm", 10_000 + 8_000),
        # Over one link 8 s, and 2 s for what follows: within 15 s, so one worker does.
        ("hydraserve", 8_000 + 2_000),
        ("hydrant", 8_000 + 2_000),
    ],
)
def test_a_cold_start_alone_takes_what_the_formulas_say(policy, ttft_ms):
    engine = ENGINES[policy]
    done = simulate(ask(0), [sim_model(style=engine.style)], engine=engine, policy=POLICIES[policy])
    assert first_tokens(done) == [ttft_ms + PREFILL_MS]
    assert len(done.cold_starts) == 1
    assert [one.cold for one in done.served] == [True]


def test_a_tight_service_level_is_met_by_a_pipeline_which_becomes_one_worker():
    tight = sim_model(slo_ttft_ms=9_000)
    done = simulate(ask(0, 20_000), [tight])
    ((group, ready_ms),) = done.cold_starts
    assert (group.plan.s, ready_ms) == (2, 8_000)
    assert first_tokens(done)[0] < 9_000
    assert first_tokens(done)[1] == PREFILL_MS, "the second finds a warm worker"
    # 16 GB: half of it, and then the other half on the node that has become the worker.
    assert [len(host.cache.held("m")) for host in done.world.hosts.values()] == [10, 5, 0, 0]


def test_a_request_within_keep_alive_finds_a_warm_worker_and_a_later_one_does_not():
    done = simulate(ask(0, 30_000, 200_000), engine=Engine(Style.OVERLAPPED, Keeps.NOTHING))
    assert [one.cold for one in done.served] == [True, False, True]
    assert first_tokens(done) == [10_000 + PREFILL_MS, PREFILL_MS, 10_000 + PREFILL_MS]


def test_what_host_memory_holds_is_not_fetched_again():
    done = simulate(ask(0, 200_000))
    assert first_tokens(done) == [10_000 + PREFILL_MS, 8_000 + PREFILL_MS]


def test_what_host_memory_has_given_up_is_fetched_again():
    """One server with host memory for one of two models."""
    models = [sim_model("a"), sim_model("b")]
    requests = ask(0, model="a") + ask(200_000, model="b") + ask(400_000, model="a")
    done = simulate(requests, models, servers(1, cache_bytes=20 * GB))
    assert first_tokens(done) == [10_000 + PREFILL_MS] * 3


def test_prompts_are_worked_on_one_after_the_other():
    done = simulate(ask(0, 0, 0))
    assert first_tokens(done) == [10_000 + PREFILL_MS * n for n in (1, 2, 3)]


def test_an_idle_worker_makes_room_so_that_another_model_meets_its_service_level():
    """One device holds an idle worker, the other has room but a link that is too slow for the service level."""
    slow = servers(1, kind="slow", link_bps=GB // 2, memory_bytes=30 * GB)
    cluster = type(slow)((*servers(1, memory_bytes=30 * GB).servers, *slow.servers))
    models = [sim_model("a"), sim_model("b")]
    requests = ask(0, model="a") + ask(25_000, model="b")
    late = simulate(requests, models, cluster, policy=POLICIES["hydraserve"])
    done = simulate(requests, models, cluster)
    assert late.served[1].ttft_ms > 15_000
    assert done.served[1].ttft_ms == 1_000 + 10_000 + PREFILL_MS, "a second for the idle worker to go"


def test_a_busy_worker_makes_room_for_nobody():
    requests = ask(0, model="a", output=2_000) + ask(20_000, model="b")
    done = simulate(requests, [sim_model("a"), sim_model("b")], servers(1, memory_bytes=30 * GB))
    first, second = done.served
    assert second.first_token_ms > first.done_ms


def test_memory_is_counted_from_start_to_stop():
    done = simulate(ask(0), engine=Engine(Style.OVERLAPPED, Keeps.NOTHING))
    served_ms = 10_000 + PREFILL_MS + 19 * 50
    assert done.world.memory_byte_ms == 20 * GB * (served_ms + 30_000 + 1_000)


@settings(max_examples=100, deadline=None)
@given(
    clusters,
    request_lists,
    st.sampled_from(sorted(POLICIES)),
    st.integers(4, 18),
    st.integers(2_000, 60_000),
    st.booleans(),
    st.sampled_from([0, 1_000, 30_000]),
)
def test_whatever_is_asked_memory_is_never_promised_twice_and_everybody_is_answered(
    cluster, requests, policy, size_gb, slo_ms, in_place, keep_alive_ms
):
    engine = ENGINES[policy]
    models = [
        sim_model(name, size_gb, engine.style, keep_alive_ms, slo_ttft_ms=slo_ms, in_place=in_place) for name in "abc"
    ]
    done = simulate(requests, models, cluster, engine, POLICIES[policy])
    assert all(one.done_ms is not None for one in done.served)
    assert len(done.world.groups) == 0
    assert all(taken == 0 for host in done.world.hosts.values() for taken in host.taken)
    assert all(host.link.transfers == {} for host in done.world.hosts.values())
    again = simulate(requests, models, cluster, engine, POLICIES[policy])
    assert first_tokens(again) == first_tokens(done)


def test_a_stage_is_on_one_device_and_a_group_on_as_many_nodes_as_it_has_stages():
    done = simulate(ask(*range(0, 50_000, 1_000)), [sim_model(slo_ttft_ms=9_000)])
    for group, _ in done.cold_starts:
        nodes = [stage.node for stage in group.plan.stages]
        assert len(set(nodes)) == len(nodes)
        assert group.state in (GroupState.STARTING, GroupState.PIPELINE, GroupState.STANDALONE)


def by_the_clock(count, every_ms, *, model="m"):
    """Asked every so often, give or take a second."""
    return ask(*(i * every_ms + (i * 733) % 2_000 for i in range(count)), model=model)


def test_a_model_that_is_asked_for_by_the_clock_has_a_worker_before_the_request():
    """After eight pauses it is known; the ninth request and all later ones find one, for a few per cent of the time."""
    every_ms, requests = 3_600_000, by_the_clock(30, 3_600_000)
    done = simulate(requests, [sim_model(keep_alive_ms=300_000)])
    without = simulate(
        requests, [sim_model(keep_alive_ms=300_000)], policy=replace(POLICIES["hydrant"], prewarms=False)
    )
    assert [one.cold for one in done.served] == [True] * 9 + [False] * 21
    assert all(one.cold for one in without.served)
    assert done.world.device_ms < without.world.device_ms + 21 * 60_000 < 0.05 * 30 * every_ms


def test_a_worker_that_waits_in_vain_for_its_model_leaves():
    done = simulate(by_the_clock(12, 3_600_000), [sim_model(keep_alive_ms=300_000)])
    assert len(done.cold_starts) == 13, "the last one was for nobody"
    assert len(done.world.groups) == 0


@given(
    clusters,
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(9, 20), st.integers(70_000, 4_000_000)), max_size=3),
    st.integers(4, 18),
    st.sampled_from([1_000, 30_000, 300_000]),
)
def test_whoever_comes_by_the_clock_memory_is_never_promised_twice_and_everybody_is_answered(
    cluster, rhythms, size_gb, keep_alive_ms
):
    requests = [one for name, count, every_ms in rhythms for one in by_the_clock(count, every_ms, model=name)]
    requests.sort(key=lambda request: request.at_ms)
    models = [sim_model(name, size_gb, keep_alive_ms=keep_alive_ms) for name in "abc"]
    done = simulate(requests, models, cluster)
    assert all(one.done_ms is not None for one in done.served)
    assert len(done.world.groups) == 0
    assert all(taken == 0 for host in done.world.hosts.values() for taken in host.taken)


class Watched(Simulation):
    """One in which idle workers never hold more than they may, whatever has been decided; `most` is what they held."""

    most = 0

    def _decide(self):
        super()._decide()
        state = self.world.state()
        held = held_bytes(state)
        assert held <= budget_bytes(state, self._policy)
        self.most = max(self.most, held)


def watched(requests, models, cluster, percent):
    requests = sorted(requests, key=lambda request: request.at_ms)
    done = Watched(cluster, models, OVERLAPPED, replace(HYDRANT, idle_percent=percent), requests)
    done.run()
    assert all(one.done_ms is not None for one in done.served)
    assert len(done.world.groups) == 0
    return done


@settings(deadline=None)
@given(
    clusters,
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(3, 20), st.integers(1_000, 600_000)), max_size=6),
    st.integers(2, 12),
    st.sampled_from([1_000, 10_000, 30_000]),
    st.sampled_from([0, 20, 50, 100]),
)
def test_idle_workers_never_hold_more_memory_beyond_their_keep_alives_than_they_may(
    cluster, rhythms, size_gb, keep_alive_ms, percent
):
    requests = [one for name, count, every_ms in rhythms for one in by_the_clock(count, every_ms, model=name)]
    watched(requests, [sim_model(name, size_gb, keep_alive_ms=keep_alive_ms) for name in "abc"], cluster, percent)


def test_the_memory_for_idle_workers_goes_to_those_that_are_asked_for_sooner():
    """Three models come back after 50, 60 and 70 s, each with a worker of 20 of 240 GB, and are kept for that."""
    names, every_ms = "abc", (50_000, 60_000, 70_000)
    requests = [one for name, ms in zip(names, every_ms, strict=True) for one in by_the_clock(60, ms, model=name)]
    models = [sim_model(name, keep_alive_ms=30_000) for name in names]
    cold = {}
    for percent in (0, 17, 100):
        done = watched(requests, models, servers(6), percent)
        cold[percent] = [sum(one.cold for one in done.served if one.request.model == name) for name in names]
        assert done.most <= 240 * GB * percent // 100
    assert cold[0] == [60] * 3
    assert max(cold[100]) <= 5, "the first ones teach"
    assert cold[100][0] <= cold[17][0] < cold[17][2] <= 60
