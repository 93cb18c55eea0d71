"""The controller against a world that does what it likes: invariants hold at every step, and it comes to rest."""

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.clusters import GB, NOW, a_model
from support.control_state import model
from support.control_world import Node, World

from orchestrator.lifecycle import OVER, SERVING, GroupState

KEEP_ALIVE_MS = 60_000
NAMES = ["a", "b", "c"]
# One link takes 3 s for the first, so that it is split over nodes; the others go on one.
SPECS = {
    "a": a_model(3, name="a", layers=4, kv_reserve_bytes=GB, slo_ttft_ms=4500, capacity=2),
    "b": a_model(2, name="b", layers=4, kv_reserve_bytes=GB, slo_ttft_ms=60_000, capacity=2),
    "c": a_model(6, name="c", layers=4, kv_reserve_bytes=GB, slo_ttft_ms=60_000, capacity=1),
}


def a_world(memory_gb: list[int]) -> World:
    nodes = {f"n{i}": Node(f"n{i}", size * GB) for i, size in enumerate(memory_gb)}
    return World(nodes, {name: model(name, SPECS[name], keep_alive_ms=KEEP_ALIVE_MS) for name in NAMES})


class Cluster(RuleBasedStateMachine):
    """Rules are what users, operators, networks and hardware do."""

    @initialize(memory=st.lists(st.sampled_from([5, 6, 8, 9, 12]), min_size=1, max_size=3))
    def begin(self, memory: list[int]) -> None:
        self.world = a_world(memory)

    def node(self, pick: int) -> Node:
        nodes = list(self.world.nodes.values())
        return nodes[pick % len(nodes)]

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 5))
    def requests_arrive(self, name: str, count: int) -> None:
        self.world.ask(name, count)

    @rule(pick=st.integers(0, 2), messages=st.integers(1, 6))
    def messages_reach_a_node(self, pick: int, messages: int) -> None:
        for _ in range(messages):
            self.world.deliver(self.node(pick))

    @rule(pick=st.integers(0, 2))
    def stages_go_on(self, pick: int) -> None:
        node = self.node(pick)
        for stage_id in list(node.stages):
            self.world.advance(node, stage_id)

    @rule()
    def all_is_calm_for_a_while(self) -> None:
        self.world.calm(step_ms=500)

    @rule(pick=st.integers(0, 2), which=st.integers(0, 20))
    def a_stage_dies(self, pick: int, which: int) -> None:
        node = self.node(pick)
        if node.stages:
            self.world.break_stage(node, sorted(node.stages)[which % len(node.stages)])

    @rule(ok=st.sampled_from([True, True, True, False]))
    def probes_are_answered(self, ok: bool) -> None:
        self.world.answer_probes(ok=ok)

    @rule()
    def gateways_read_routes(self) -> None:
        self.world.see_routes()

    @rule()
    def requests_end(self) -> None:
        for group_id in list(self.world.groups):
            self.world.finish(group_id)

    @rule(ms=st.sampled_from([1, 1000, 5000, KEEP_ALIVE_MS, 301_000]))
    def time_passes(self, ms: int) -> None:
        self.world.now_ms += ms

    @rule(pick=st.integers(0, 2), silent=st.booleans())
    def a_node_falls_silent_or_returns(self, pick: int, silent: bool) -> None:
        self.node(pick).silent = silent
        self.world.report(self.node(pick))

    @rule(pick=st.integers(0, 2), cordoned=st.booleans(), draining=st.booleans())
    def an_operator_works_on_a_node(self, pick: int, cordoned: bool, draining: bool) -> None:
        node = self.node(pick)
        node.cordoned, node.draining = cordoned, draining

    @rule(name=st.sampled_from(NAMES), enabled=st.booleans())
    def a_model_is_switched(self, name: str, enabled: bool) -> None:
        self.world.models[name] = replace(self.world.models[name], enabled=enabled)

    @rule(name=st.sampled_from(NAMES), count=st.integers(0, 1))
    def replicas_are_asked_for(self, name: str, count: int) -> None:
        self.world.models[name] = replace(self.world.models[name], min_replicas=count)

    @rule(name=st.sampled_from(NAMES))
    def a_model_is_stopped(self, name: str) -> None:
        self.world.models[name] = replace(self.world.models[name], stop_requested_ms=self.world.now_ms)

    @rule(known=st.booleans())
    def redis_forgets_or_gateways_are_heard(self, known: bool) -> None:
        self.world.gateways_known = known

    @invariant()
    @precondition(lambda self: hasattr(self, "world"))
    def the_controller_comes_to_rest(self) -> None:
        self.world.settle()

    def teardown(self) -> None:
        """Whatever went before: a healthy cluster serves who waits or says why not, and without demand it empties."""
        if not hasattr(self, "world"):
            return
        self.mend()
        self.all_who_wait_are_served_or_told()
        self.everything_ends()

    def mend(self) -> None:
        world = self.world
        world.gateways_known = True
        for node in world.nodes.values():
            node.silent = node.cordoned = node.draining = False
        for name, view in world.models.items():
            world.models[name] = replace(view, enabled=True, min_replicas=0)

    def all_who_wait_are_served_or_told(self) -> None:
        world = self.world
        for name in NAMES:
            world.ask(name, 1)
        for _ in range(400):
            world.calm(step_ms=1000)
            for group_id in list(world.groups):
                world.finish(group_id)
            stuck = [name for name in NAMES if world.waiting[name]]
            if not stuck or all(self.is_hopeless(name) for name in stuck):
                return
        raise AssertionError(f"still waiting: {stuck}, {world.waits}, {world.state().groups}")

    def is_hopeless(self, name: str) -> bool:
        told = self.world.waits.get(name)
        return told is not None and told.why is not None and told.retry_at_ms is None

    def everything_ends(self) -> None:
        world = self.world
        world.waiting.clear()
        for _ in range(400):
            world.calm(step_ms=5000)
            for group_id in list(world.groups):
                while world.groups[group_id].running:
                    world.finish(group_id)
            live = [group for group in world.groups.values() if group.state not in OVER]
            there = [stage for group in world.groups.values() for stage in group.stages if stage.alive]
            if not live and not there:
                return
        raise AssertionError(f"without demand these stay: {live or there}")


Cluster.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCluster = Cluster.TestCase


def until(world: World, reached, steps: int = 60) -> None:
    for _ in range(steps):
        if reached():
            return
        world.calm(step_ms=500)
    raise AssertionError(f"not reached: {world.state().groups}")


def states(world: World) -> list[GroupState]:
    return [group.state for group in world.groups.values()]


def test_a_pipeline_is_started_consolidated_and_scaled_to_zero():
    world = a_world([9, 9])
    world.ask("a", 1)
    world.settle()
    assert [len(group.stages) for group in world.groups.values()] == [2]
    until(world, lambda: states(world)[0] in SERVING)
    assert world.waiting["a"] == 0
    until(world, lambda: states(world)[:2] == [GroupState.DRAINING, GroupState.STANDALONE])
    pipeline, standalone = world.groups
    assert world.groups[pipeline].running == 1, "the first request still runs on the pipeline"
    world.calm(step_ms=1000)
    assert not world.groups[pipeline].stopping
    world.finish(pipeline)
    until(world, lambda: states(world) == [GroupState.STOPPED, GroupState.STANDALONE])
    world.now_ms += KEEP_ALIVE_MS
    until(world, lambda: states(world) == [GroupState.STOPPED, GroupState.STOPPED])
    assert standalone in world.groups
    assert world.now_ms > NOW


def test_a_node_lost_in_the_middle_of_a_start_costs_a_retry_elsewhere():
    world = a_world([6, 6])
    world.ask("b", 1)
    world.settle()
    (stage,) = next(iter(world.groups.values())).stages
    world.nodes[stage.node].silent = True
    until(world, lambda: states(world)[-1] is GroupState.STANDALONE)
    first, second = world.groups.values()
    assert first.state is GroupState.FAILED
    assert second.stages[0].node != stage.node


def test_an_idle_model_makes_room_for_another():
    world = a_world([8])
    world.ask("b", 1)
    until(world, lambda: states(world) == [GroupState.STANDALONE])
    world.finish("grp_0001")
    world.ask("c", 1)
    until(world, lambda: states(world) == [GroupState.STOPPED, GroupState.STANDALONE])


def test_a_pipeline_whose_worker_needs_its_memory_drains_first_and_the_worker_follows():
    world = a_world([5, 5])
    world.ask("a", 1)
    until(world, lambda: states(world) == [GroupState.PIPELINE])
    world.calm(step_ms=60_000)
    assert states(world) == [GroupState.PIPELINE], "a request runs on it"
    world.finish("grp_0001")
    until(world, lambda: states(world) == [GroupState.DRAINING])
    world.ask("a", 2)
    until(world, lambda: states(world) == [GroupState.STOPPED, GroupState.STANDALONE])
    assert world.groups["grp_0002"].parent_id == "grp_0001"
    assert world.waiting["a"] == 0
