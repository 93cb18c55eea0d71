"""What the controller would read from SQL and Redis, kept in memory, and its decisions carried out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from orchestrator.consolidation import kept
from orchestrator.control import ControlState, ModelView, Move, Start
from orchestrator.groups import Groups, GroupView, ProbeView, StageState, StageView
from orchestrator.lifecycle import OVER, GroupState, move
from orchestrator.nodes import Nodes
from orchestrator.simulator.cluster import Cluster, Server
from orchestrator.simulator.host_cache import HostCache
from orchestrator.simulator.links import Link
from orchestrator.types import DeviceState, Fetch, NodeState, Sharing

START_LIMIT_MS = 24 * 3_600_000
"""No simulated start hangs, and in production none is given up before a fetch that is in time can have ended."""
Claim = tuple[str, int, int]
"""Node, device, bytes."""


class Host:
    """A server: its devices, its link, its host memory."""

    def __init__(self, name: str, server: Server, sharing: Sharing, noted: Callable[[str, bool], None]) -> None:
        self.name = name
        self.server = server
        self.link = Link(server.link_bps, sharing)
        self.cache = HostCache(server.cache_bytes, noted)
        self.taken = [0] * server.devices
        self._view: NodeState | None = None

    def changed(self) -> None:
        """What the planner has seen of it is no longer so."""
        self._view = None

    def view(self, now_ms: int) -> NodeState:
        """The node as the planner sees it."""
        if self._view is None or self._view.fetches or self.link.transfers:
            self._view = self._look(now_ms)
        return self._view

    def _look(self, now_ms: int) -> NodeState:
        self.link.advance(now_ms)
        kind, size = self.server.kind, self.server.memory_bytes
        return NodeState(
            name=self.name,
            link_bps=self.link.bps,
            devices=tuple(DeviceState(self.name, i, kind, size, size - taken) for i, taken in enumerate(self.taken)),
            fetches=tuple(
                Fetch(transfer.key, self.name, int(transfer.remaining), transfer.deadline_ms)
                for transfer in self.link.transfers.values()
            ),
        )


class World:
    """Groups, models and hosts at `now_ms`. A ValueError says where memory would be promised twice."""

    def __init__(self, cluster: Cluster, models: Mapping[str, ModelView], sharing: Sharing) -> None:
        self.now_ms = 0
        self._sharing = sharing
        self._holders: dict[str, dict[str, None]] = {}
        self.hosts = {
            name: Host(name, server, sharing, partial(self._note_held, name)) for name, server in cluster.hosts()
        }
        self.models = dict(models)
        self.groups = Groups()
        self.memory_bytes = sum(host.server.devices * host.server.memory_bytes for host in self.hosts.values())
        self.reserved_bytes = 0
        self.memory_byte_ms = 0
        self.device_ms = 0.0
        self._claims: dict[str, list[Claim]] = {}
        self._shares = 0.0
        self._counted_ms = 0
        self._made = 0

    def state(self) -> ControlState:
        """All that a decision may depend on. Routes are seen by every gateway at once."""
        return ControlState(
            now_ms=self.now_ms,
            nodes=_LiveNodes(self),
            models=self.models,
            groups=self.groups,
            routes_version=None,
            sharing=self._sharing,
        )

    def change_model(self, name: str, **changes: Any) -> ModelView:
        """The model's view, changed."""
        self.models[name] = replace(self.models[name], **changes)
        return self.models[name]

    def see_held(self, name: str) -> None:
        """Let decisions for the model know what hosts hold of it now."""
        holders = self._holders.get(name, {})
        if holders or self.models[name].held:
            self.change_model(name, held={host: self.hosts[host].cache.held(name) for host in holders})

    def _note_held(self, host: str, model: str, here: bool) -> None:
        if here:
            self._holders.setdefault(model, {})[host] = None
        else:
            self._holders[model].pop(host, None)

    # --- decisions ------------------------------------------------------------------------------------------------

    def start(self, start: Start) -> GroupView:
        """A group as planned."""
        self._made += 1
        group_id = f"grp_{self._made:06d}"
        stages = tuple(
            StageView(f"{group_id}/{part.rank}", part.rank, part.node, StageState.FETCHING)
            for part in start.plan.stages
        )
        group = GroupView(
            group_id=group_id,
            model=start.model,
            state=GroupState.STARTING,
            version=1,
            cause=start.cause,
            plan=start.plan,
            stages=stages,
            created_ms=self.now_ms,
            parent_id=start.parent_id,
            deadline_ms=self.now_ms + START_LIMIT_MS,
        )
        self.put(group)
        return group

    def move(self, decision: Move) -> GroupView:
        """A group in another state."""
        group = self.groups[decision.group_id]
        to = move(group.group_id, group.state, decision.to, decision.why)
        changes: dict[str, Any] = {"state": to, "version": group.version + 1, "why": decision.why or group.why}
        if to in (GroupState.PIPELINE, GroupState.STANDALONE) and group.ready_ms is None:
            changes["ready_ms"] = self.now_ms
        if to is GroupState.DRAINING:
            changes["drain_version"] = 0
        return self.change(group.group_id, **changes)

    def change(self, group_id: str, **changes: Any) -> GroupView:
        """The group, changed."""
        return self.put(replace(self.groups[group_id], **changes))

    def stage_ready(self, group_id: str, rank: int) -> GroupView:
        """A stage serves; the first rank of a group that all serve has been asked for a token."""
        group = self._stages(group_id, [rank], state=StageState.READY, verified=True)
        if all(stage.state is StageState.READY for stage in group.stages):
            group = self.change(group_id, probe=ProbeView(ok=True))
        return group

    def stages_gone(self, group_id: str) -> GroupView:
        """The group's processes have ended."""
        group = self.groups[group_id]
        return self._stages(group_id, range(len(group.stages)), state=StageState.GONE)

    def drop_over(self, group_id: str) -> None:
        """Forget a group that is over and has no process."""
        group = self.groups[group_id]
        if group.state in OVER and not any(stage.alive for stage in group.stages):
            self._claim(group_id, [])
            self.groups.drop(group_id)
            if group.parent_id is not None:
                self._reclaim(group.parent_id)

    def _stages(self, group_id: str, ranks: Iterable[int], **changes: Any) -> GroupView:
        wanted = set(ranks)
        stages = tuple(
            replace(stage, **changes) if stage.rank in wanted else stage for stage in self.groups[group_id].stages
        )
        return self.change(group_id, stages=stages)

    # --- memory ---------------------------------------------------------------------------------------------------

    def put(self, group: GroupView) -> GroupView:
        """Keep the group, and count what it and the pipeline that it replaces reserve."""
        self.groups.put(group)
        self._reclaim(group.group_id)
        if group.parent_id is not None:
            self._reclaim(group.parent_id)
        self.check({node for node, _, _ in self._claims.get(group.group_id, [])})
        return group

    def _reclaim(self, group_id: str) -> None:
        group = self.groups.get(group_id)
        if group is not None:
            self._claim(group_id, list(self._reserved(group)))

    def _reserved(self, group: GroupView) -> Iterator[Claim]:
        for stage in group.stages:
            if stage.alive:
                part = group.plan.stages[stage.rank]
                yield part.node, part.device, part.reserved_bytes
        yield from kept(self.groups, group)

    def _claim(self, group_id: str, claims: list[Claim]) -> None:
        before = self._claims.get(group_id, [])
        if claims == before:
            return
        self.count_memory()
        for sign, some in ((-1, before), (1, claims)):
            for node, device, size in some:
                self.hosts[node].taken[device] += sign * size
                self.hosts[node].changed()
                self.reserved_bytes += sign * size
                self._shares += sign * size / self.hosts[node].server.memory_bytes
        self._claims[group_id] = claims
        if not claims:
            del self._claims[group_id]

    def check(self, names: Iterable[str]) -> None:
        """Raises ValueError where a device of one of these hosts has been promised more than it has."""
        for host in (self.hosts[name] for name in names):
            for device, taken in enumerate(host.taken):
                if not 0 <= taken <= host.server.memory_bytes:
                    raise ValueError(f"{host.name}, device {device}: {taken} of {host.server.memory_bytes} bytes")

    def count_memory(self) -> None:
        """Add what has been reserved since the last change to `memory_byte_ms`, and in devices to `device_ms`."""
        self.memory_byte_ms += self.reserved_bytes * (self.now_ms - self._counted_ms)
        self.device_ms += self._shares * (self.now_ms - self._counted_ms)
        self._counted_ms = self.now_ms


class _LiveNodes(Nodes):
    """The hosts as they are when they are looked at: most decisions look at none."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def __iter__(self) -> Iterator[NodeState]:
        now_ms = self._world.now_ms
        return (host.view(now_ms) for host in self._world.hosts.values())

    def __len__(self) -> int:
        return len(self._world.hosts)

    @property
    def memory_bytes(self) -> int:
        """Device memory of all hosts."""
        return self._world.memory_bytes

    @property
    def reserved_bytes(self) -> int:
        """What of it groups have reserved."""
        return self._world.reserved_bytes

    def get(self, name: str) -> NodeState | None:
        """The host, or None when there is none of that name."""
        host = self._world.hosts.get(name)
        return None if host is None else host.view(self._world.now_ms)
