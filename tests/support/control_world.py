"""A cluster in memory that the controller's decisions are applied to: nodes with scripted stages, gateways, faults.

Messages between the controller and the nodes wait in queues until the test lets them through, so that any order of
delivery, loss of a node and race can be played. It checks as it goes that no device is over-committed, that no illegal
transition is made, and that one model is never started beyond its need.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace

from support.clusters import NOW
from support.whys import untold

from orchestrator.consolidation import kept, targets
from orchestrator.control import ControlState, ModelView, Move, Start, Stop, Wait
from orchestrator.groups import Groups, GroupView, ProbeView, StageState, StageView
from orchestrator.lifecycle import OVER, SERVING, GroupState, move
from orchestrator.nodes import Nodes
from orchestrator.reconcile import reconcile
from orchestrator.scaling import EARLY_DEATH_MS
from orchestrator.types import DeviceState, Fetch, NodeState
from orchestrator.why import Why, WhyCode

PASSES = 60
"""More than any state here needs; reaching it means that the decisions never come to rest."""
_NEXT = {
    StageState.FETCHING: StageState.STARTING,
    StageState.STARTING: StageState.LOADING,
    StageState.LOADING: StageState.READY,
}


@dataclass
class Node:
    """What is true on a server: `alive` stages hold device memory, whatever the controller has heard of it."""

    name: str
    memory_bytes: int
    link_bps: int = 10**9
    silent: bool = False
    cordoned: bool = False
    draining: bool = False
    inbox: deque[tuple[str, str]] = field(default_factory=deque)
    stages: dict[str, StageState] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)


@dataclass
class World:
    """`models` holds what is configured; demand is in `waiting` and `running`."""

    nodes: dict[str, Node]
    models: dict[str, ModelView]
    now_ms: int = NOW
    groups: dict[str, GroupView] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)
    since_ms: dict[str, int] = field(default_factory=dict)
    last_request_ms: dict[str, int] = field(default_factory=dict)
    routes_version: int = 1
    seen_version: int = 1
    gateways_known: bool = True
    waits: dict[str, Wait] = field(default_factory=dict)
    routed: frozenset[str] = frozenset()
    drain_began_ms: dict[str, int] = field(default_factory=dict)
    served: set[str] = field(default_factory=set)
    failed_ms: dict[str, int] = field(default_factory=dict)
    blamed: dict[str, frozenset[str]] = field(default_factory=dict)
    _made: int = 0

    # --- what the controller sees ---------------------------------------------------------------------------------

    def state(self) -> ControlState:
        """The state as tasks/state.py would load it."""
        live = Groups(g for g in self.groups.values() if g.state not in OVER or any(stage.alive for stage in g.stages))
        running = Counter(dict.fromkeys(self.models, 0))
        for group in live:
            running[group.model] += group.running
        return ControlState(
            now_ms=self.now_ms,
            nodes=Nodes(self._node(node, live) for node in self.nodes.values()),
            models={
                name: replace(
                    model,
                    waiting=self.waiting[name],
                    oldest_waiting_ms=self.since_ms.get(name) if self.waiting[name] else None,
                    running=running[name],
                    last_request_ms=self.last_request_ms.get(name),
                    **self._failures(name),
                )
                for name, model in self.models.items()
            },
            groups=Groups(self._with_heir_failures(group) for group in live),
            routes_version=self.seen_version,
            lost=frozenset(node.name for node in self.nodes.values() if node.silent),
            draining=self._draining(),
            gateways_known=self.gateways_known,
        )

    def _draining(self) -> dict[str, int]:
        for node in self.nodes.values():
            if node.draining:
                self.drain_began_ms.setdefault(node.name, self.now_ms)
            else:
                self.drain_began_ms.pop(node.name, None)
        return dict(self.drain_began_ms)

    def _node(self, node: Node, live: Groups) -> NodeState:
        taken = 0
        fetches = []
        for group in live:
            for stage in group.stages:
                if stage.node == node.name and stage.alive:
                    part = group.plan.stages[stage.rank]
                    taken += part.reserved_bytes
                    if not stage.verified:
                        fetches.append(Fetch(stage.stage_id, node.name, part.fetch_bytes, part.deadline_ms))
            taken += sum(size for name, _, size in kept(live, group) if name == node.name)
        free = node.memory_bytes - taken
        assert free >= 0, f"{node.name} is promised {-free} bytes more than it has"
        return NodeState(
            name=node.name,
            link_bps=node.link_bps,
            devices=(DeviceState(node.name, 0, "cuda", node.memory_bytes, free),),
            fetches=tuple(fetches),
            cordoned=node.cordoned or node.draining,
        )

    def _failures(self, name: str) -> dict[str, object]:
        failed = []
        for group in reversed(self.groups.values()):
            if group.model != name or group.parent_id is not None:
                continue
            if group.state is GroupState.FAILED and not self._worked(group):
                failed.append(group)
            elif group.ready_ms is not None:
                break
        if not failed:
            return {"failures": 0, "failed_ms": None, "avoid": frozenset()}
        avoid = frozenset(node for group in failed for node in self.blamed[group.group_id])
        return {"failures": len(failed), "failed_ms": self.failed_ms[failed[0].group_id], "avoid": avoid}

    def _worked(self, group: GroupView) -> bool:
        if group.ready_ms is None:
            return False
        return group.group_id in self.served or self.failed_ms[group.group_id] - group.ready_ms >= EARLY_DEATH_MS

    def _with_heir_failures(self, group: GroupView) -> GroupView:
        failed = [
            self.failed_ms[g.group_id]
            for g in self.groups.values()
            if g.parent_id == group.group_id and g.state is GroupState.FAILED
        ]
        return replace(group, heir_failures=len(failed), heir_failed_ms=max(failed, default=None))

    # --- what the controller does ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """Decide and apply until nothing changes, as one task of the controller does."""
        for _ in range(PASSES):
            self.waits = {}
            decisions = reconcile(self.state())
            changed = [self._apply(decision) for decision in decisions]
            self._publish_routes()
            self.check()
            if not any(changed):
                return
        raise AssertionError(f"the decisions never come to rest: {decisions}")

    def _apply(self, decision: object) -> bool:
        match decision:
            case Start():
                self._start(decision)
            case Move():
                return self._move(decision)
            case Stop():
                group = self._change(decision.group_id, stopping=True)
                assert group.state in (*OVER, GroupState.DRAINING), f"a group that is {group.state} was stopped"
                assert group.state in OVER or group.running == 0, "a busy group was stopped"
                for name in {stage.node for stage in group.stages}:
                    self.nodes[name].inbox.append(("stop", group.group_id))
            case Wait():
                self.waits[decision.model] = decision
                return False
        return True

    def _start(self, start: Start) -> None:
        self._made += 1
        group_id = f"grp_{self._made:04d}"
        stages = tuple(
            StageView(f"{group_id}/{part.rank}", part.rank, part.node, StageState.PLANNED) for part in start.plan.stages
        )
        deadline = self.now_ms + 300_000
        if start.parent_id is None:
            self._check_needed(start)
        self.groups[group_id] = GroupView(
            group_id=group_id,
            model=start.model,
            state=GroupState.STARTING,
            version=1,
            cause=start.cause,
            plan=start.plan,
            stages=stages,
            created_ms=self.now_ms,
            parent_id=start.parent_id,
            deadline_ms=deadline,
        )
        for stage in stages:
            self.nodes[stage.node].inbox.append(("start", stage.stage_id))

    def _check_needed(self, start: Start) -> None:
        capacity = self.models[start.model].spec.capacity
        coming = sum(
            max(1, len(targets(g))) * capacity
            for g in self.groups.values()
            if g.model == start.model and g.state is GroupState.STARTING and g.parent_id is None
        )
        slots = sum(capacity - g.running for g in self.groups.values() if g.model == start.model and g.state in SERVING)
        model = self.models[start.model]
        kept = max(model.min_replicas, 1 if (model.warm_until_ms or 0) > self.now_ms else 0)
        mine = [g for g in self.groups.values() if g.model == start.model]
        emptied = {node.name for node in self.nodes.values() if node.draining}
        leaving = [g for g in mine if any(stage.node in emptied for stage in g.stages)]
        if any(g.running for g in leaving) or self.waiting[start.model]:
            kept = max(kept, 1)
        there = sum(1 for g in mine if g not in leaving and g.state not in (*OVER, GroupState.DRAINING))
        assert self.waiting[start.model] > coming + slots or there < kept, f"{start.model} was started beyond its need"

    def _move(self, decision: Move) -> bool:
        group = self.groups[decision.group_id]
        if group.version != decision.version:
            return False
        to = move(group.group_id, group.state, decision.to, decision.why)
        if decision.why is not None:
            assert untold(decision.why) == []
        if to is GroupState.DRAINING and group.state in SERVING:
            self._check_may_drain(group, decision.why)
        if to in SERVING and group.ready_ms is None:
            self._change(group.group_id, ready_ms=self.now_ms)
        if to in OVER:
            # Nothing runs on what is over: its clients have seen it break.
            self._change(group.group_id, running=0)
        self._change(group.group_id, state=to, version=group.version + 1, why=decision.why or group.why)
        if to is GroupState.FAILED:
            self.failed_ms[group.group_id], self.blamed[group.group_id] = self.now_ms, decision.blamed
        return True

    def _check_may_drain(self, group: GroupView, why: Why | None) -> None:
        assert why is not None, "a group was drained without a reason"
        if why.code in (WhyCode.IDLE, WhyCode.MAKES_ROOM):
            assert group.running == 0, f"a busy group was drained: {why}"
            model = self.models[group.model]
            others = [g for g in self.groups.values() if g.model == group.model and g is not group]
            left = [g for g in others if g.state in SERVING]
            assert len(left) >= model.min_replicas, f"fewer than min_replicas are left: {why}"
            load = self.waiting[group.model] + sum(g.running for g in left)
            assert load <= len(left) * model.spec.capacity, f"a group was drained that was needed: {why}"

    def _publish_routes(self) -> None:
        routed = frozenset(g.group_id for g in self.groups.values() if g.state in SERVING)
        if routed != self.routed:
            self.routed, self.routes_version = routed, self.routes_version + 1
        for group in list(self.groups.values()):
            if group.state is GroupState.DRAINING and group.drain_version is None:
                self._change(group.group_id, drain_version=self.routes_version)

    def _change(self, group_id: str, **changes: object) -> GroupView:
        self.groups[group_id] = replace(self.groups[group_id], **changes)
        return self.groups[group_id]

    # --- what happens on its own ----------------------------------------------------------------------------------

    def deliver(self, node: Node) -> None:
        """The oldest message to a node arrives; a silent one takes nothing."""
        if node.silent or not node.inbox:
            return
        kind, name = node.inbox.popleft()
        if kind == "start":
            if name.split("/")[0] not in node.refused:
                node.stages[name] = StageState.FETCHING
        else:
            node.refused.add(name)
            for stage_id in list(node.stages):
                if stage_id.startswith(f"{name}/"):
                    node.stages[stage_id] = StageState.GONE
            self._hear_stopped(name, node.name)
        self.report(node)

    def _hear_stopped(self, group_id: str, node: str) -> None:
        stages = tuple(
            replace(stage, state=StageState.GONE) if stage.node == node and stage.state is StageState.PLANNED else stage
            for stage in self.groups[group_id].stages
        )
        self._change(group_id, stages=stages)

    def report(self, node: Node) -> None:
        """The controller hears the node's whole state."""
        if node.silent:
            return
        for group in list(self.groups.values()):
            stages = []
            for stage in group.stages:
                said = node.stages.get(stage.stage_id) if stage.node == node.name else None
                verified = stage.verified or said is StageState.READY
                stages.append(stage if said is None else replace(stage, state=said, verified=verified))
            self._change(group.group_id, stages=tuple(stages))

    def advance(self, node: Node, stage_id: str) -> None:
        """A stage takes its next step."""
        node.stages[stage_id] = _NEXT.get(node.stages[stage_id], node.stages[stage_id])
        self.report(node)

    def break_stage(self, node: Node, stage_id: str) -> None:
        """A stage dies."""
        if node.stages[stage_id] is not StageState.GONE:
            node.stages[stage_id] = StageState.FAILED
        self.report(node)

    def answer_probes(self, *, ok: bool) -> None:
        """First ranks that are ready have been asked for a token, and their nodes tell what came."""
        for group in list(self.groups.values()):
            first = group.stages[0]
            node = self.nodes[first.node]
            if group.probe is None and not node.silent and node.stages.get(first.stage_id) is StageState.READY:
                self._change(group.group_id, probe=ProbeView(ok, None if ok else "no token"))

    def ask(self, model: str, count: int) -> None:
        """Requests arrive at a gateway."""
        self.waiting[model] += count
        self.since_ms.setdefault(model, self.now_ms)
        self.last_request_ms[model] = self.now_ms
        self.dispatch()

    def dispatch(self) -> None:
        """Gateways hand waiting requests to groups with a free place, by the routes that they have seen."""
        if self.seen_version != self.routes_version:
            return
        for group_id in sorted(self.routed):
            group = self.groups[group_id]
            free = self.models[group.model].spec.capacity - group.running if group.model in self.models else 0
            taken = min(free, self.waiting[group.model])
            if taken > 0:
                self.waiting[group.model] -= taken
                self._change(group_id, running=group.running + taken, last_used_ms=self.now_ms)
        for name in list(self.since_ms):
            if not self.waiting[name]:
                del self.since_ms[name]

    def finish(self, group_id: str) -> None:
        """A request ends."""
        group = self.groups[group_id]
        if group.running:
            self.served.add(group_id)
            self._change(group_id, running=group.running - 1, last_used_ms=self.now_ms)
            self.last_request_ms[group.model] = self.now_ms
        self.dispatch()

    def see_routes(self) -> None:
        """Every gateway has read the newest routes."""
        self.seen_version = self.routes_version
        self.dispatch()

    # --- what must hold -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """No device holds more than it has, by what really lies on it."""
        used: Counter[str] = Counter()
        for node in self.nodes.values():
            for stage_id, there in node.stages.items():
                if there not in (StageState.GONE, StageState.FAILED):
                    group_id, rank = stage_id.split("/")
                    used[node.name] += self.groups[group_id].plan.stages[int(rank)].reserved_bytes
        for name, size in used.items():
            assert size <= self.nodes[name].memory_bytes, f"{name} is over-committed"

    def calm(self, *, step_ms: int) -> None:
        """Everything that was on its way arrives, everything that can go on does, and time passes."""
        for node in self.nodes.values():
            while node.inbox and not node.silent:
                self.deliver(node)
            for stage_id in list(node.stages):
                self.advance(node, stage_id)
            self.report(node)
        self.answer_probes(ok=True)
        self.see_routes()
        self.now_ms += step_ms
        self.settle()
        self.see_routes()
