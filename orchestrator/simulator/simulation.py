"""The loop: events in order of time, and after each the controller's decisions for the models that it concerns."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.consolidation import FIRST_TOKENS_MS
from orchestrator.control import Decision, ModelView, Move, Start, Stop, Wait
from orchestrator.groups import Cause, GroupView
from orchestrator.keep_alive import REMEMBERED
from orchestrator.lifecycle import SERVING, GroupState
from orchestrator.partition import split
from orchestrator.policies import Policy
from orchestrator.prewarming import LEAD_MS, Window, expected
from orchestrator.reconcile import reconcile, urgency
from orchestrator.simulator.cluster import Cluster
from orchestrator.simulator.host_cache import Keeps
from orchestrator.simulator.serving import Prompts, Queue, Served, choose
from orchestrator.simulator.startup import Style, fetch_at_ms, profiled_ready_ms, ready_ms
from orchestrator.simulator.workload import Request
from orchestrator.simulator.world import World
from orchestrator.types import ModelSpec, Sharing

PATIENCE_MS = 24 * 3_600_000
"""A day after the last request everything has long been answered and ended, or never will be."""
STOP_MS = 1_000
"""From the decision to stop a worker until its memory is free."""
PASSES = 20
"""How often decisions may follow each other at one moment, for each model that they are about."""


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model and what only the simulator needs of it; `label` is what results are grouped by."""

    spec: ModelSpec
    label: str
    keep_alive_ms: int
    prefill_us_per_token: int


@dataclass(frozen=True, slots=True)
class Engine:
    """How engines start, what hosts keep of what they fetched, and how fetches share a link."""

    style: Style
    keeps: Keeps
    sharing: Sharing = Sharing.EQUALLY


ENGINES: Mapping[str, Engine] = {
    "hydrant": Engine(Style.OVERLAPPED, Keeps.EVERYTHING, Sharing.BY_DEADLINE),
    "hydraserve": Engine(Style.OVERLAPPED, Keeps.WHOLE_MODELS),
    "serverlessllm": Engine(Style.LOAD_BESIDE, Keeps.WHOLE_MODELS),
    "serverless-vllm": Engine(Style.IN_SEQUENCE, Keeps.NOTHING),
}
"""What each policy's system runs, HydraServe with its host cache."""


@dataclass(slots=True)
class Begun:
    """A stage that is starting."""

    group_id: str
    rank: int
    begun_ms: int


class Simulation:
    """One run of `requests` under `policy`."""

    def __init__(
        self, cluster: Cluster, models: Sequence[SimModel], engine: Engine, policy: Policy, requests: Sequence[Request]
    ) -> None:
        self._models = {model.spec.name: model for model in models}
        views = {m.spec.name: ModelView(spec=m.spec, keep_alive_ms=m.keep_alive_ms) for m in models}
        self.world = World(cluster, views, engine.sharing)
        self._times = cluster.times
        self._engine = engine
        self._policy = policy
        self.served = [Served(request) for request in requests]
        self.cold_starts: list[tuple[GroupView, int]] = []
        self._queues: Mapping[str, Queue] = {name: Queue() for name in self._models}
        self._arrivals: dict[str, tuple[Begun, bool]] = {}
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._dirty: dict[str, None] = {}
        self._prompts: dict[str, Prompts] = {}
        self._retrying: set[str] = set()
        self._windows: dict[str, Window | None] = {}
        self._unplaced: dict[str, None] = {}

    def run(self) -> None:
        """To the last event: every request is answered, every worker has ended. RuntimeError when they never do."""
        for one in self.served:
            self._at(one.request.at_ms, partial(self._arrive, one))
        last_ms = max((one.request.at_ms for one in self.served), default=0)
        while self._events:
            at, _, event = heapq.heappop(self._events)
            if at > last_ms + PATIENCE_MS:
                left = ", ".join(f"{group.group_id} of {group.model} is {group.state}" for group in self.world.groups)
                raise RuntimeError(f"nothing comes to an end hours after the last request: {left or 'requests wait'}")
            self.world.now_ms = at
            event()
            if not self._events or self._events[0][0] > at:
                self._decide()
        self.world.count_memory()

    def at(self, at_ms: int, change: Callable[[World], None]) -> None:
        """Before it runs: the world is changed then, by hands that no decision guides."""
        self._at(at_ms, lambda: change(self.world))

    def _at(self, at_ms: int, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(at_ms, self.world.now_ms), self._count, event))

    def _touch(self, model: str) -> None:
        self._dirty[model] = None

    def _room_changed(self) -> None:
        """Memory or a link is free again: whoever could not be placed may be now."""
        self._dirty |= self._unplaced
        self._unplaced.clear()

    # --- requests -------------------------------------------------------------------------------------------------

    def _arrive(self, one: Served) -> None:
        name = one.request.model
        self._note_pause(name)
        self._queues[name].waiting.append(one)
        self._dispatch(name)
        self._touch(name)

    def _dispatch(self, name: str) -> None:
        queue, model = self._queues[name], self._models[name]
        while queue.waiting:
            serving = [group for group in self.world.groups.of(name) if group.state in SERVING]
            group = choose(serving, model.spec.capacity)
            if group is None:
                break
            one = queue.waiting.popleft()
            prompts = self._prompts.setdefault(group.group_id, Prompts())
            first, last = prompts.times_ms(
                self.world.now_ms, model.spec, group, one.request, model.prefill_us_per_token
            )
            one.first_token_ms = self.world.now_ms + first
            one.cold = one.request.at_ms < (group.ready_ms or 0)
            self.world.change(group.group_id, running=group.running + 1, last_used_ms=self.world.now_ms)
            self._at(self.world.now_ms + last, partial(self._finish, one, group.group_id))
        self._note_demand(name)

    def _note_pause(self, name: str) -> None:
        """A request has come; if the model was unused, for how long it was."""
        model = self.world.models[name]
        if self._policy.learns and not model.waiting and not model.running and model.last_request_ms is not None:
            pause = self.world.now_ms - model.last_request_ms
            pauses = (*model.pauses_ms, pause)[-REMEMBERED:]
            self.world.change_model(name, pauses_ms=pauses)
            if self._policy.prewarms:
                self._windows[name] = expected(pauses, model.keep_alive_ms)

    def _note_demand(self, name: str) -> None:
        queue, model = self._queues[name], self.world.models[name]
        running = sum(group.running for group in self.world.groups.of(name))
        # A worker that becomes ready for nobody is no use of its model.
        used = queue.waiting or running or model.running or model.waiting
        self.world.change_model(
            name, waiting=len(queue.waiting), oldest_waiting_ms=queue.oldest_ms, running=running,
            last_request_ms=self.world.now_ms if used else model.last_request_ms,
        )  # fmt: skip

    def _finish(self, one: Served, group_id: str) -> None:
        one.done_ms = self.world.now_ms
        name = one.request.model
        group = self.world.groups[group_id]
        self.world.change(group_id, running=group.running - 1, last_used_ms=self.world.now_ms)
        self._dispatch(name)
        self._touch(name)
        self._expect(name)
        self._look_when_idle(name)

    def _expect(self, name: str) -> None:
        """The model has just been used: when it is likely to be again."""
        now_ms, window = self.world.now_ms, self._windows.get(name)
        if window is None and self.world.models[name].expected_ms is None:
            return
        then = None if window is None else (now_ms + window[0], now_ms + window[1])
        self.world.change_model(name, expected_ms=then)
        for at in () if then is None else (then[0] - LEAD_MS, then[1]):
            self._at(at, partial(self._touch, name))

    def _look_when_idle(self, name: str) -> None:
        """When a keep-alive will be over: the learned one, in plenty or not, and the one that was set, beyond which
        memory is bounded."""
        model = self.world.models[name]
        for after_ms in {model.kept_ms, model.kept_in_plenty_ms, min(model.kept_ms, model.keep_alive_ms)}:
            self._at(self.world.now_ms + after_ms, partial(self._touch, name))

    # --- decisions ------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        while self._dirty:
            names = sorted(self._dirty, key=self._urgency)
            self._dirty.clear()
            self._settle(names)

    def _urgency(self, name: str) -> tuple[bool, int, str]:
        return *urgency(self.world.models[name], self._policy), name

    def _settle(self, names: Sequence[str]) -> None:
        for name in names:
            self.world.see_held(name)
        for _ in range(PASSES * len(names)):
            decisions = reconcile(self.world.state(), self._policy, names)
            changed = [self._apply(decision) for decision in decisions]
            if not any(changed):
                return
            # What another's start has left is less: who could not start just now cannot in the next pass.
            waiting = {decision.model for decision in decisions if isinstance(decision, Wait)}
            names = [name for name in names if name not in waiting]
        raise RuntimeError(f"{', '.join(names)}: the decisions never come to rest: {decisions}")

    def _apply(self, decision: Decision) -> bool:
        if isinstance(decision, Wait):
            self._unplaced[decision.model] = None
            if decision.retry_at_ms is not None and decision.model not in self._retrying:
                self._retrying.add(decision.model)
                self._at(decision.retry_at_ms, partial(self._retry, decision.model))
            return False
        if isinstance(decision, Start):
            self._start(decision)
        elif isinstance(decision, Move):
            self._move(decision)
        elif isinstance(decision, Stop):
            self._stop(decision.group_id)
        return True

    def _retry(self, name: str) -> None:
        self._retrying.discard(name)
        self._touch(name)

    def _move(self, decision: Move) -> None:
        group = self.world.move(decision)
        self._touch(group.model)
        if group.state is GroupState.PIPELINE:
            self._at(self.world.now_ms + FIRST_TOKENS_MS, partial(self._touch, group.model))
        if group.state in (GroupState.PIPELINE, GroupState.STANDALONE):
            self._dispatch(group.model)
            self._look_when_idle(group.model)
        if group.state is GroupState.STOPPED:
            self.world.drop_over(group.group_id)

    def _start(self, decision: Start) -> None:
        world = self.world
        group = world.start(decision)
        in_place = decision.cause is Cause.CONSOLIDATION and self._models[group.model].spec.in_place
        for stage in group.stages:
            begun = Begun(group.group_id, stage.rank, world.now_ms)
            host = world.hosts[stage.node]
            host.cache.pin(group.model, 1)
            host.cache.touch(group.model)
            times = self._times[host.server.kind]
            begin = world.now_ms + (0 if in_place else fetch_at_ms(self._engine.style, times))
            self._at(begin, partial(self._fetch, begun, in_place=in_place))

    def _fetch(self, begun: Begun, *, in_place: bool) -> None:
        group = self.world.groups.get(begun.group_id)
        if group is None or not group.stages[begun.rank].alive:
            return
        part = group.plan.stages[begun.rank]
        if part.fetch_bytes == 0:
            self._fetched(begun, in_place=in_place)
            return
        host = self.world.hosts[part.node]
        host.link.begin(self.world.now_ms, group.stages[begun.rank].stage_id, part.fetch_bytes, part.deadline_ms)
        self._arrivals[group.stages[begun.rank].stage_id] = (begun, in_place)
        self._watch(part.node)

    def _watch(self, name: str) -> None:
        """Look at the host's link when the next transfer is complete."""
        link = self.world.hosts[name].link
        end, version = link.next_end_ms(), link.version
        if end is not None:
            self._at(end, partial(self._landed, name, version))

    def _landed(self, name: str, version: int) -> None:
        link = self.world.hosts[name].link
        if link.version != version:
            return
        for key in link.complete(self.world.now_ms):
            begun, in_place = self._arrivals.pop(key)
            self._fetched(begun, in_place=in_place)
        self._room_changed()
        self._watch(name)

    def _fetched(self, begun: Begun, *, in_place: bool) -> None:
        group = self.world.groups.get(begun.group_id)
        if group is None:
            return
        spec = self.world.models[group.model].spec
        part = group.plan.stages[begun.rank]
        host = self.world.hosts[part.node]
        share = next(
            p for p in split(spec, len(group.stages)) if p.first == part.first_layer and p.count == part.layer_count
        )
        whole = len(group.stages) == 1 and not in_place
        if self._engine.keeps is Keeps.EVERYTHING or (self._engine.keeps is Keeps.WHOLE_MODELS and whole):
            host.cache.put(spec, share.groups)
        took = self.world.now_ms - begun.begun_ms
        kind = host.server.kind
        if in_place:
            after = took
        elif self._engine.style is Style.OVERLAPPED:
            after = profiled_ready_ms(spec.on(kind).profile, len(group.stages), took)
        else:
            after = ready_ms(self._engine.style, self._times[kind], took, share.size_bytes)
        self._at(begun.begun_ms + after, partial(self._ready, begun))

    def _ready(self, begun: Begun) -> None:
        group = self.world.groups.get(begun.group_id)
        if group is None or not group.stages[begun.rank].alive:
            return
        group = self.world.stage_ready(begun.group_id, begun.rank)
        if group.probe is not None and group.parent_id is None:
            self.cold_starts.append((group, self.world.now_ms))
        self._touch(group.model)

    def _stop(self, group_id: str) -> None:
        group = self.world.groups[group_id]
        for stage in group.stages:
            host = self.world.hosts[stage.node]
            host.cache.pin(group.model, -1)
            if self._arrivals.pop(stage.stage_id, None) is not None:
                host.link.drop(self.world.now_ms, stage.stage_id)
                self._watch(stage.node)
        self.world.change(group_id, stopping=True)
        self._at(self.world.now_ms + STOP_MS, partial(self._gone, group_id))

    def _gone(self, group_id: str) -> None:
        group = self.world.stages_gone(group_id)
        self.world.drop_over(group_id)
        self._room_changed()
        self._touch(group.model)
