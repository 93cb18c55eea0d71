"""What goes into a decision about a group and what comes out of it.

Units everywhere in this package: sizes in bytes, rates in bytes per second (`*_bps`), durations and instants in integer
milliseconds (instants since the epoch, UTC). The inputs check their numbers: a ValueError names the field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from orchestrator.codec import Record

EMBED = "embed"
"""Tensor group of the token embedding."""
HEAD = "head"
"""Tensor group of the final norm and, unless the embedding is tied, the output projection."""

MAX_STAGES = 4
"""Largest pipeline that is tried: the paper splits over "up to four servers"."""


def layer_group(index: int) -> str:
    """Tensor group of decoder layer `index`, counted from 0 in the whole model."""
    return f"layer:{index}"


@dataclass(frozen=True, slots=True)
class Profile(Record):
    """What has been measured of a model on this kind of device; None where nothing was measured yet.

    runtime_floor_ms  from fork to ready with every byte already present: what a fetch can hide behind.
    tail_ms           from the last byte fetched to ready: copying the last tensors, the readiness probe.
    per_stage_floor_ms  what each stage after the first adds to the floor (rendezvous of the ranks).
    plain_start_ms    what a node without a warm runtime adds to the floor (it must import everything first).
    hop_ms            handing the hidden state from one stage to the next.
    tpot_batch_us     what each further request that a worker serves at the same time adds to tpot_ms, in microseconds.
    """

    tpot_ms: int | None = None
    prefill_ms: int | None = None
    runtime_floor_ms: int = 0
    tail_ms: int = 2000
    per_stage_floor_ms: int = 0
    plain_start_ms: int = 0
    hop_ms: int = 1
    tpot_batch_us: int = 0

    def __post_init__(self) -> None:
        _check_optional("profile.tpot_ms", self.tpot_ms, at_least=1)
        _check_optional("profile.prefill_ms", self.prefill_ms, at_least=0)
        for name in (
            "runtime_floor_ms", "tail_ms", "per_stage_floor_ms", "plain_start_ms", "hop_ms", "tpot_batch_us",
        ):  # fmt: skip
            _check(f"profile.{name}", getattr(self, name), at_least=0)


@dataclass(frozen=True, slots=True)
class KindProfile(Record):
    """What has been measured on one kind of device."""

    kind: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class ModelSpec(Record):
    """A model as the planner sees it.

    layer_bytes       bytes of each decoder layer, first to last.
    embed_bytes       the token embedding.
    head_bytes        the final norm and the output projection; with `tied`, only the norm: the last stage of a pipeline
                      then needs its own copy of the embedding.
    kv_reserve_bytes  K of the paper: device memory kept for the KV cache of a whole worker.
    context_bytes     device memory one engine process takes besides weights and KV cache, on any kind of device.
    gpu_context_bytes what it takes besides that on an accelerator; see `memory.GPU_CONTEXT_BYTES`.
    stored_bytes, loaded_bytes  so many bytes in the files (as all sizes above count them, compressed ones as they lie
                      there) become so many in device memory.
    profile           what holds on every kind of device that is not among `profiles`.
    in_place          a stage of the engine can grow into a whole worker, in its process and its memory, as the paper's
                      can; SGLang's cannot, and a second process takes over.
    slo_tpot_ms       None: time per output token is not limited.
    max_stages        the largest pipeline that helps this model.
    capacity          requests one worker serves at the same time.
    """

    name: str
    layer_bytes: tuple[int, ...]
    embed_bytes: int
    head_bytes: int
    tied: bool
    kv_bytes_per_token: int
    kv_reserve_bytes: int
    slo_ttft_ms: int
    slo_tpot_ms: int | None
    profile: Profile
    context_bytes: int = 0
    gpu_context_bytes: int = 0
    stored_bytes: int = 1
    loaded_bytes: int = 1
    max_stages: int = MAX_STAGES
    capacity: int = 8
    profiles: tuple[KindProfile, ...] = ()
    in_place: bool = False

    def __post_init__(self) -> None:
        _check_name("model.name", self.name)
        if not self.layer_bytes:
            raise ValueError("model.layer_bytes: a model has at least one layer")
        for i, size in enumerate(self.layer_bytes):
            _check(f"model.layer_bytes[{i}]", size, at_least=1)
        for name in ("embed_bytes", "head_bytes", "kv_bytes_per_token", "kv_reserve_bytes"):
            _check(f"model.{name}", getattr(self, name), at_least=0)
        for name in ("context_bytes", "gpu_context_bytes"):
            _check(f"model.{name}", getattr(self, name), at_least=0)
        for name in ("slo_ttft_ms", "max_stages", "capacity", "stored_bytes", "loaded_bytes"):
            _check(f"model.{name}", getattr(self, name), at_least=1)
        _check_optional("model.slo_tpot_ms", self.slo_tpot_ms, at_least=1)

    def on(self, kind: str) -> "ModelSpec":
        """The model as it is on that kind of device: with what was measured there, where something was."""
        found = next((one.profile for one in self.profiles if one.kind == kind), None)
        return self if found is None else replace(self, profile=found, profiles=())

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layer_bytes)

    @property
    def weights_bytes(self) -> int:
        """M of the paper: all weights of a standalone worker, as the files have them."""
        return self.embed_bytes + sum(self.layer_bytes) + self.head_bytes


@dataclass(frozen=True, slots=True)
class DeviceState(Record):
    """One accelerator (or set of CPU cores) of a node; `free_bytes` is what no group has reserved."""

    node: str
    index: int
    kind: str
    memory_bytes: int
    free_bytes: int

    def __post_init__(self) -> None:
        where = f"device {self.node}/{self.index}"
        _check_name(f"{where}: kind", self.kind)
        _check(f"{where}: index", self.index, at_least=0)
        _check(f"{where}: memory_bytes", self.memory_bytes, at_least=0)
        _check(f"{where}: free_bytes", self.free_bytes, at_least=0)
        if self.free_bytes > self.memory_bytes:
            raise ValueError(f"{where}: free_bytes {self.free_bytes} exceeds memory_bytes {self.memory_bytes}")


class Sharing(StrEnum):
    """How a node shares its link between its fetches."""

    BY_DEADLINE = "by_deadline"
    """It belongs to the one with the earliest deadline (deadlines.py); nodes of ours do so."""
    EQUALLY = "equally"
    """As the published systems do (equal_share.py)."""


@dataclass(frozen=True, slots=True)
class Fetch(Record):
    """A running or admitted transfer over a node's link; `remaining_bytes` is as of the moment of the decision."""

    key: str
    node: str
    remaining_bytes: int
    deadline_ms: int

    def __post_init__(self) -> None:
        _check(f"fetch {self.key}: remaining_bytes", self.remaining_bytes, at_least=0)
        _check(f"fetch {self.key}: deadline_ms", self.deadline_ms, at_least=0)


@dataclass(frozen=True, slots=True)
class NodeState(Record):
    """One server.

    link_bps    its link; 0 while it cannot fetch (it can still serve what it holds).
    held        tensor groups of the model being planned that lie verified in this node's host memory.
    cordoned    takes nothing new: cordoned, or drained.
    warm        has a runtime to fork from.
    free_ports  ports that no stage uses.
    make        everything above but names, fetches and the order of devices: of one make, the planner may take any that
                fetches nothing.
    """

    name: str
    link_bps: int
    devices: tuple[DeviceState, ...]
    fetches: tuple[Fetch, ...] = ()
    held: frozenset[str] = frozenset()
    cordoned: bool = False
    warm: bool = True
    free_ports: int = 100
    make: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name("node.name", self.name)
        _check(f"node {self.name}: link_bps", self.link_bps, at_least=0)
        _check(f"node {self.name}: free_ports", self.free_ports, at_least=0)
        claimed = {device.node for device in self.devices} | {fetch.node for fetch in self.fetches}
        if claimed - {self.name}:
            raise ValueError(f"node {self.name}: has devices or fetches that say node {sorted(claimed - {self.name})}")
        if len({device.index for device in self.devices}) != len(self.devices):
            raise ValueError(f"node {self.name}: two devices have the same index")
        devices = tuple(sorted((one.kind, one.memory_bytes, one.free_bytes) for one in self.devices))
        # A string remembers its hash: a planner that looks at ten thousand nodes asks each for it.
        make = repr((self.link_bps, sorted(self.held), self.warm, self.free_ports, devices))
        object.__setattr__(self, "make", make)


@dataclass(frozen=True, slots=True)
class StoreState(Record):
    """Where models come from. `egress_bps`: bytes/s to all nodes together; `fetches`: what they fetch from it."""

    name: str
    egress_bps: int
    fetches: tuple[Fetch, ...] = ()

    def __post_init__(self) -> None:
        _check_name("store.name", self.name)
        _check(f"store {self.name}: egress_bps", self.egress_bps, at_least=1)


@dataclass(frozen=True, slots=True)
class ClusterState(Record):
    """Every node that reports, as known at `now_ms`.

    silent   names of nodes that have stopped reporting: what they could do may be had again soon.
    sharing  how nodes share their links between fetches.
    store    where the model that is planned comes from; None: it gives as much as all links take.
    """

    nodes: tuple[NodeState, ...]
    now_ms: int
    silent: frozenset[str] = frozenset()
    sharing: Sharing = Sharing.BY_DEADLINE
    store: StoreState | None = None

    def __post_init__(self) -> None:
        _check("cluster.now_ms", self.now_ms, at_least=0)
        if len({node.name for node in self.nodes}) != len(self.nodes):
            raise ValueError("cluster.nodes: two nodes have the same name")


@dataclass(frozen=True, slots=True)
class PlanRequest(Record):
    """`instances` more workers of `model` are needed; its oldest request has waited `waited_ms` so far.

    frugal  other models are to start as well: fast links are left to those that need them.
    batch   requests that a worker would serve at the same time.
    """

    model: ModelSpec
    instances: int = 1
    waited_ms: int = 0
    frugal: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        _check("request.instances", self.instances, at_least=1)
        _check("request.waited_ms", self.waited_ms, at_least=0)
        _check("request.batch", self.batch, at_least=1)


@dataclass(frozen=True, slots=True)
class StagePlan(Record):
    """One stage: where it runs, which layers it has, what it reserves and what it fetches.

    reserved_bytes  device memory of this stage's own process (a standalone worker's place is in ConsolidationTarget); 0
                    of one that grows in place, since its worker's place holds it.
    full            this stage's node has room for a whole worker, so a standalone worker will grow there.
    fetch_bytes     what the node does not hold yet.
    deadline_ms     when the fetch must be complete; of a link's fetches, the earliest goes first.
    rate_bps        what it has of the link on average, other fetches' turns included; 0 when there is nothing to fetch.
    """

    rank: int
    node: str
    device: int
    first_layer: int
    layer_count: int
    reserved_bytes: int
    full: bool
    fetch_bytes: int
    deadline_ms: int
    rate_bps: int


class ConsolidationMode(StrEnum):
    """Where the standalone worker finds its memory."""

    BESIDE_STAGE = "beside_stage"
    """On the stage's device: for a while it holds the stage and the whole worker."""
    OTHER_DEVICE = "other_device"
    """On another device of the same node, sharing the bytes in host memory."""
    DRAIN_FIRST = "drain_first"
    """On the stage's device, after the pipeline has drained and its stage has stopped."""
    IN_PLACE = "in_place"
    """In the stage's own process, which has a whole worker's memory from the beginning."""


@dataclass(frozen=True, slots=True)
class ConsolidationTarget(Record):
    """A standalone worker that will take over from the pipeline.

    rank            the full stage on the same node.
    memory_bytes    device memory of the standalone worker.
    reserved_bytes  what to keep reserved for it on `device` from now on, besides the stage's own reservation there.
    fetch_bytes     what its node lacks once the stage's own bytes have landed.
    """

    rank: int
    node: str
    device: int
    mode: ConsolidationMode
    memory_bytes: int
    reserved_bytes: int
    fetch_bytes: int


@dataclass(frozen=True, slots=True)
class ConsolidationPlan(Record):
    """One target for each full stage: the group ends as that many standalone workers."""

    targets: tuple[ConsolidationTarget, ...]


class Verdict(StrEnum):
    """What became of a candidate (s, w)."""

    CHOSEN = "chosen"
    MEETS = "meets"
    """Meets the SLOs, but a later candidate gives more of the instances that a burst needs."""
    TTFT_TOO_LONG = "ttft_too_long"
    TPOT_TOO_LONG = "tpot_too_long"
    NO_ROOM = "no_room"
    LINKS_DOWN = "links_down"
    LINKS_BUSY = "links_busy"
    """Where links are shared equally: one fetch more would make another late."""
    NO_PORTS = "no_ports"
    TOO_FEW_NODES = "too_few_nodes"


@dataclass(frozen=True, slots=True)
class Candidate(Record):
    """One pipeline size `s` with `w` full workers, as judged.

    fetch_ms  the slowest stage's fetch; floor_ms  the runtime floor it hides behind. None where it could not be placed.
    """

    s: int
    w: int
    verdict: Verdict
    ttft_ms: int | None = None
    tpot_ms: int | None = None
    fetch_ms: int | None = None
    floor_ms: int | None = None


class ReasonCode(StrEnum):
    """Why a plan looks as it does; `orchestrator.explain` has the words."""

    MEETS_SLO = "meets_slo"
    DEGRADED = "degraded"
    WAITED = "waited"
    STORE = "store"
    SPLIT_NEEDED = "split_needed"
    BURST = "burst"
    FEWER_INSTANCES = "fewer_instances"
    NOT_PROFILED = "not_profiled"
    HELD = "held"
    PLAIN_START = "plain_start"
    BESIDE_STAGE = "beside_stage"
    OTHER_DEVICE = "other_device"
    DRAIN_FIRST = "drain_first"
    IN_PLACE = "in_place"


@dataclass(frozen=True, slots=True)
class Reason(Record):
    """A reason as data: what happened and the numbers to say it with."""

    code: ReasonCode
    facts: Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class Plan(Record):
    """A decided cold start: a pipeline of `s` stages of which `w` nodes can take a whole worker.

    degraded  no candidate met the SLOs; this is the single worker that serves anyway.
    waited_ms  of `predicted_ttft_ms`, what the oldest request had waited before the plan was made.
    """

    model: str
    s: int
    w: int
    stages: tuple[StagePlan, ...]
    predicted_ttft_ms: int
    predicted_tpot_ms: int | None
    degraded: bool
    consolidate: ConsolidationPlan | None
    candidates: tuple[Candidate, ...]
    reasons: tuple[Reason, ...]
    waited_ms: int = 0


class NoPlanReason(StrEnum):
    """Why nothing can be started now."""

    NO_NODES = "no_nodes"
    MODEL_TOO_LARGE = "model_too_large"
    NO_MEMORY = "no_memory"
    NO_PORTS = "no_ports"
    LINKS_BUSY = "links_busy"
    LINKS_DOWN = "links_down"


@dataclass(frozen=True, slots=True)
class NoPlan(Record):
    """Nothing can be started; `retry_after_ms` is None when only a change of the cluster or the model would help."""

    model: str
    reason: NoPlanReason
    detail: Mapping[str, int | str]
    candidates: tuple[Candidate, ...]
    retry_after_ms: int | None


def outcome_from_json(data: object) -> Plan | NoPlan:
    """What `Plan.to_json()` or `NoPlan.to_json()` wrote; ValueError names the field that does not fit."""
    if isinstance(data, Mapping) and "stages" in data:
        return Plan.from_json(data)
    return NoPlan.from_json(data)


def _check(name: str, value: object, *, at_least: int) -> None:
    if type(value) is not int:
        raise ValueError(f"{name}: expected an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name}: expected at least {at_least}, got {value}")


def _check_optional(name: str, value: object, *, at_least: int) -> None:
    if value is not None:
        _check(name, value, at_least=at_least)


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a non-empty string, got {value!r}")
