"""Groups as decisions see them, found by what these ask for: their id, their model, the pipeline that they replace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.lifecycle import GroupState
from orchestrator.types import Plan
from orchestrator.why import Why


class Cause(StrEnum):
    """Why a group was started."""

    DEMAND = "demand"
    WARM = "warm"
    MIN_REPLICAS = "min_replicas"
    CONSOLIDATION = "consolidation"
    PREWARM = "prewarm"


class StageState(StrEnum):
    """A stage as its noded reports it; `PLANNED` until it is first reported."""

    PLANNED = "planned"
    FETCHING = "fetching"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    GONE = "gone"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StageView:
    """One rank of a group."""

    stage_id: str
    rank: int
    node: str
    state: StageState
    verified: bool = False
    reason: str | None = None
    bytes_fetched: int = 0
    bytes_to_fetch: int = 0

    @property
    def alive(self) -> bool:
        """Whether processes or device memory of this stage may exist.

        Those of a planned one may: its effects are on their way until its node has taken a stop.
        """
        return self.state not in (StageState.GONE, StageState.FAILED)


@dataclass(frozen=True, slots=True)
class ProbeView:
    """What came of asking a group's first rank for one token, which its node does by itself."""

    ok: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group that is not over, or whose processes are not all gone yet.

    running        requests on it, summed over live gateways.
    why            why it began to end, if it did.
    probe          None until the first rank's node has told.
    last_used_ms   when a request was last seen on it, roughly; None when none was.
    heir_failures  standalone workers that failed to replace this pipeline; `heir_failed_ms` is the last one's moment.
    drain_version  the routes version from which no gateway may choose it; None while it is routed.
    unheard        nodes that have not answered what was sent to start it, a minute after it was first sent.
    """

    group_id: str
    model: str
    state: GroupState
    version: int
    cause: Cause
    plan: Plan
    stages: tuple[StageView, ...]
    created_ms: int
    ready_ms: int | None = None
    parent_id: str | None = None
    probe: ProbeView | None = None
    running: int = 0
    drain_version: int | None = None
    deadline_ms: int = 0
    stopping: bool = False
    why: Why | None = None
    last_used_ms: int | None = None
    heir_failures: int = 0
    heir_failed_ms: int | None = None
    unheard: frozenset[str] = frozenset()


class Groups:
    """Groups in the order in which they were put. Whoever keeps one over time (a simulator) may change it in place."""

    def __init__(self, groups: Iterable[GroupView] = ()) -> None:
        self._by_id: dict[str, GroupView] = {}
        self._by_model: dict[str, dict[str, GroupView]] = {}
        self._by_parent: dict[str, dict[str, GroupView]] = {}
        for group in groups:
            self.put(group)

    def __iter__(self) -> Iterator[GroupView]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, group_id: str) -> GroupView:
        return self._by_id[group_id]

    def get(self, group_id: str) -> GroupView | None:
        """The group, or None when there is none of that id."""
        return self._by_id.get(group_id)

    def of(self, model: str) -> list[GroupView]:
        """The groups of a model."""
        return list(self._by_model.get(model, _NONE).values())

    def replacing(self, group_id: str) -> list[GroupView]:
        """The groups that were started to replace this pipeline."""
        return list(self._by_parent.get(group_id, _NONE).values())

    def models(self) -> list[str]:
        """Names of the models that have a group."""
        return list(self._by_model)

    def put(self, group: GroupView) -> None:
        """Add the group, or what has become of it."""
        self._by_id[group.group_id] = group
        self._by_model.setdefault(group.model, {})[group.group_id] = group
        if group.parent_id is not None:
            self._by_parent.setdefault(group.parent_id, {})[group.group_id] = group

    def drop(self, group_id: str) -> None:
        """Forget the group. KeyError when there is none of that id."""
        group = self._by_id.pop(group_id)
        _drop(self._by_model, group.model, group_id)
        if group.parent_id is not None:
            _drop(self._by_parent, group.parent_id, group_id)


_NONE: Mapping[str, GroupView] = {}


def _drop(index: dict[str, dict[str, GroupView]], key: str, group_id: str) -> None:
    found = index[key]
    del found[group_id]
    if not found:
        del index[key]
