"""What the controller knows when it decides, and what it may decide.

`reconcile` maps a `ControlState` to decisions. Reading the state and carrying decisions out is done elsewhere
(`tasks/`), so that tests and a simulator can drive the very same function.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.groups import Cause, Groups, GroupView
from orchestrator.keep_alive import keep_alive_in_plenty_ms, keep_alive_ms
from orchestrator.lifecycle import GroupState
from orchestrator.nodes import Nodes
from orchestrator.service_class import ServiceClass, slo_ms
from orchestrator.types import ClusterState, ModelSpec, NoPlan, Plan, PlanRequest, Sharing, StoreState
from orchestrator.why import Why, WhyCode


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model with its demand.

    oldest_by_class  since when the oldest held request of each class waits; without it all are standard.
    store            where its weights come from; see ControlState.stores.
    version          compared and swapped when a group of it is started.
    last_request_ms  when a request of it last ended or began on any gateway.
    failures         failed starts in a row since one last succeeded; `failed_ms` is the last one's moment. Among them
                     are workers that died within EARLY_DEATH_MS of ready without having served; not among them those
                     that were to replace a pipeline (see GroupView).
    avoid            nodes on which any of those failed starts broke.
    held             tensor groups of this model that each node's host memory holds, verified.
    pauses_ms        the newest times from a last request to the next one, if keep-alive is to be learned from them.
    expected_ms      from when until when it is likely to be asked for again (prewarming.py).
    """

    spec: ModelSpec
    enabled: bool = True
    min_replicas: int = 0
    warm_until_ms: int | None = None
    stop_requested_ms: int | None = None
    keep_alive_ms: int = 300_000
    waiting: int = 0
    oldest_waiting_ms: int | None = None
    oldest_by_class: Mapping[ServiceClass, int] = field(default_factory=dict)
    running: int = 0
    last_request_ms: int | None = None
    failures: int = 0
    failed_ms: int | None = None
    avoid: frozenset[str] = frozenset()
    held: Mapping[str, frozenset[str]] = field(default_factory=dict)
    version: int = 1
    store: str = ""
    pauses_ms: tuple[int, ...] = ()
    expected_ms: tuple[int, int] | None = None

    @property
    def most_urgent(self) -> tuple[int, int] | None:
        """Since when the held request waits that is due first, and its time to first token; None: none is held."""
        oldest = self.oldest_by_class
        if not oldest and self.oldest_waiting_ms is not None:
            oldest = {ServiceClass.STANDARD: self.oldest_waiting_ms}
        waits = ((since_ms, slo_ms(self.spec.slo_ttft_ms, one)) for one, since_ms in oldest.items())
        return min(waits, key=lambda wait: (sum(wait), wait), default=None)

    @property
    def due_ms(self) -> int | None:
        """By when the first of its held requests should have its first token; None when nobody waits."""
        urgent = self.most_urgent
        return None if urgent is None else sum(urgent)

    def request(self, now_ms: int, instances: int = 1) -> PlanRequest:
        """What the planner is asked for: `instances` more workers, by when the most urgent held request needs one."""
        batch = min(self.spec.capacity, max(1, -(-self.waiting // instances)))
        if self.most_urgent is None:
            return PlanRequest(self.spec, instances, batch=batch)
        since_ms, within_ms = self.most_urgent
        spec = self.spec if within_ms == self.spec.slo_ttft_ms else replace(self.spec, slo_ttft_ms=within_ms)
        return PlanRequest(spec, instances, max(0, now_ms - since_ms), batch=batch)

    @property
    def kept_ms(self) -> int:
        """How long an unused worker is kept: as people have set it, or as the model's own pauses teach."""
        return keep_alive_ms(self.pauses_ms, self.keep_alive_ms)

    @property
    def kept_in_plenty_ms(self) -> int:
        """The same while nobody needs the memory."""
        return keep_alive_in_plenty_ms(self.pauses_ms, self.keep_alive_ms)


@dataclass(frozen=True, slots=True)
class ControlState:
    """Everything a decision may depend on.

    nodes           what can be planned on, `held` left empty (it depends on the model).
    lost            nodes that have not reported for too long.
    draining        nodes that an operator wants emptied, and since when.
    routes_version  the routes version that every live gateway has seen; None with no gateway alive: nobody chooses.
    gateways_known  False for a while after Redis has lost its memory: silence then does not mean that nothing runs.
    sharing         how nodes share their links between fetches.
    stores          what is known of the stores of models, by name; of others no limit is.
    """

    now_ms: int
    nodes: Nodes
    models: Mapping[str, ModelView]
    groups: Groups
    routes_version: int | None
    lost: frozenset[str] = frozenset()
    draining: Mapping[str, int] = field(default_factory=dict)
    gateways_known: bool = True
    sharing: Sharing = Sharing.BY_DEADLINE
    stores: Mapping[str, StoreState] = field(default_factory=dict)

    def dismissal(self, group: GroupView) -> Why | None:
        """Why people want the group to end: its model is gone, disabled, or was told to stop since it was made.

        None while they do not.
        """
        model = self.models.get(group.model)
        if model is None:
            return Why(WhyCode.MODEL_DELETED)
        if not model.enabled:
            return Why(WhyCode.MODEL_DISABLED)
        if model.stop_requested_ms is not None and group.created_ms <= model.stop_requested_ms:
            return Why(WhyCode.MODEL_STOPPED)
        return None

    def cluster_for(self, model: ModelView, *, without: frozenset[str] = frozenset()) -> ClusterState:
        """The cluster as the planner should see it for this model, leaving out the nodes `without`."""
        out = without | self.lost
        nodes = (
            replace(node, held=held) if (held := model.held.get(node.name)) else node
            for node in self.nodes
            if node.name not in out
        )
        store = self.stores.get(model.store)
        return ClusterState(tuple(nodes), self.now_ms, silent=self.lost, sharing=self.sharing, store=store)


# --- decisions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start a group as planned, if its model is still at `version`; `parent_id` names the pipeline it will replace."""

    model: str
    plan: Plan
    cause: Cause
    parent_id: str | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class Move:
    """Move a group to another state, if it is still at `version`.

    why     why it begins to end, or breaks; None while it goes on in its life, or ends as it had begun to.
    blamed  the nodes on which it broke.
    """

    group_id: str
    version: int
    to: GroupState
    why: Why | None = None
    blamed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Stop:
    """End every process of a group that is draining, over, or failed.

    quiet  nothing runs on it, and no gateway can choose it any more: its processes have nothing left to finish.
    """

    group_id: str
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """A wanted start that cannot happen now, and why: gateways turn it into Retry-After.

    `waited_ms`: how long the oldest request has waited for it. `eta_ms`: when its first token could come, where what
    would start is known: memory is about to be free. None where nobody can tell.
    """

    model: str
    why: NoPlan | None
    retry_at_ms: int | None
    cause: Cause = Cause.DEMAND
    waited_ms: int = 0
    eta_ms: int | None = None


Decision = Start | Move | Stop | Wait
