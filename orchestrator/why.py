"""Why a group ends, as data; `orchestrator.explain` has the words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.codec import Record


class WhyCode(StrEnum):
    """What ends a group, each with the facts that go with it.

    A stage (`rank`, `node`) or the token that is asked for may come with `error`: the engine's or node's own words.
    """

    STAGE_FAILED = "stage_failed"  # rank, node, error
    STAGE_GONE = "stage_gone"  # rank, node, error: its node was stopped, and knows it no more
    NODE_LOST = "node_lost"  # rank, node
    NODE_TAKES_NOTHING = "node_takes_nothing"  # rank, node: it reports, and answers nothing that is sent to it
    PROBE_FAILED = "probe_failed"  # error
    NOT_READY_IN_TIME = "not_ready_in_time"  # allowed_ms, from its creation; and the stages that were not ready
    MODEL_DELETED = "model_deleted"
    MODEL_DISABLED = "model_disabled"
    MODEL_STOPPED = "model_stopped"
    NODE_EMPTIED = "node_emptied"  # node
    IDLE = "idle"  # idle_ms, keep_alive_ms
    # idle_ms; set_ms, the keep-alive that people have set; held_bytes by it; budget_bytes for all such workers
    IDLE_BUDGET = "idle_budget"
    DRAINS_FIRST = "drains_first"  # of no other is the worker that follows started, and its memory kept
    REPLACED = "replaced"
    MAKES_ROOM = "makes_room"  # model: the one that gets the memory


@dataclass(frozen=True, slots=True)
class SlowStage(Record):
    """A stage that was not ready in time. Both numbers of bytes are None when none was left to fetch."""

    rank: int
    node: str
    state: str
    bytes_fetched: int | None = None
    bytes_to_fetch: int | None = None


@dataclass(frozen=True, slots=True)
class Why(Record):
    """Why a group ends. `stages` only with NOT_READY_IN_TIME: none when all were ready and no token came."""

    code: WhyCode
    facts: Mapping[str, int | str] = field(default_factory=dict)
    stages: tuple[SlowStage, ...] = ()
