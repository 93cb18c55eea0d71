"""Models and clusters for the orchestrator's tests, and hypothesis strategies that make them."""

from dataclasses import replace

from hypothesis import strategies as st

from orchestrator.types import ClusterState, DeviceState, Fetch, ModelSpec, NodeState, PlanRequest, Profile, layer_group

GB = 10**9
GBIT = 125_000_000
"""One Gbit/s in bytes per second."""
NOW = 1_700_000_000_000

PAPER_PROFILE = Profile(tail_ms=2000)
"""What the paper's artifact assumes: nothing measured, no runtime floor, 2 s after the fetch, 1 ms a hop."""


def a_model(size_gb: int = 13, *, slo_ttft_ms: int = 7500, layers: int = 12, **changes: object) -> ModelSpec:
    """A model of `size_gb` GB in equal layers, with the paper's K of 5 GB and its SLO for a 7B model."""
    values: dict[str, object] = {
        "name": "m",
        "layer_bytes": (size_gb * GB // layers,) * layers,
        "embed_bytes": 0,
        "head_bytes": 0,
        "tied": False,
        "kv_bytes_per_token": 1,
        "kv_reserve_bytes": 5 * GB,
        "slo_ttft_ms": slo_ttft_ms,
        "slo_tpot_ms": None,
        "profile": PAPER_PROFILE,
    }
    return ModelSpec(**(values | changes))  # type: ignore[arg-type]


def a_node(
    name: str, *, gbps: float = 16, free_gb: tuple[float, ...] = (80,), kind: str = "cuda", **changes
) -> NodeState:
    """A node with one device for each entry of `free_gb`, each of 80 GB, and nothing running on its link."""
    devices = tuple(DeviceState(name, i, kind, 80 * GB, int(free * GB)) for i, free in enumerate(free_gb))
    return NodeState(name, int(gbps * GBIT), devices, **changes)


def a_cluster(count: int = 4, *, now_ms: int = NOW, **changes) -> ClusterState:
    """`count` equal nodes n0, n1, ..."""
    return ClusterState(tuple(a_node(f"n{i}", **changes) for i in range(count)), now_ms)


profiles = st.builds(
    Profile,
    tpot_ms=st.none() | st.integers(1, 200),
    prefill_ms=st.none() | st.integers(0, 500),
    runtime_floor_ms=st.integers(0, 3000),
    tail_ms=st.integers(0, 3000),
    per_stage_floor_ms=st.integers(0, 1000),
    plain_start_ms=st.integers(0, 20_000),
    hop_ms=st.integers(0, 5),
)

models = st.builds(
    ModelSpec,
    name=st.just("m"),
    layer_bytes=st.lists(st.integers(1, 1000), min_size=1, max_size=10).map(tuple),
    embed_bytes=st.integers(0, 3000),
    head_bytes=st.integers(0, 3000),
    tied=st.booleans(),
    kv_bytes_per_token=st.integers(0, 10),
    kv_reserve_bytes=st.integers(0, 3000),
    slo_ttft_ms=st.integers(1, 40_000),
    slo_tpot_ms=st.none() | st.integers(1, 400),
    profile=profiles,
    context_bytes=st.integers(0, 500),
    gpu_context_bytes=st.sampled_from([0, 300]),
    stored_bytes=st.sampled_from([2, 4]),
    loaded_bytes=st.sampled_from([2, 4]),
    max_stages=st.integers(1, 5),
    capacity=st.integers(1, 16),
)


@st.composite
def fetches(draw: st.DrawFn, node: str, max_size: int = 4) -> tuple[Fetch, ...]:
    """Transfers running on `node`'s link, some of them late already."""
    return tuple(
        Fetch(f"{node}-{i}", node, draw(st.integers(0, 5000)), NOW + draw(st.integers(-1000, 20_000)))
        for i in range(draw(st.integers(0, max_size)))
    )


@st.composite
def nodes(draw: st.DrawFn, name: str, *, roomy: bool) -> NodeState:
    """A node on the scale of `models`: up to three devices, busy or idle, warm or not, perhaps cordoned.

    A `roomy` one has memory to spare and a link that works, so that most models can be planned on it.
    """
    devices = []
    for index in range(draw(st.integers(1 if roomy else 0, 3))):
        free = draw(st.integers(5000 if roomy else 0, 40_000))
        kind = draw(st.sampled_from(["cuda", "cuda", "cpu"]))
        devices.append(DeviceState(name, index, kind, free + draw(st.integers(0, 10_000)), free))
    return NodeState(
        name=name,
        link_bps=draw(st.sampled_from([500, 1000, 1000, 20_000] if roomy else [0, 500, 1000, 20_000])),
        devices=tuple(devices),
        fetches=draw(fetches(name, 1 if roomy else 4)),
        held=draw(st.frozensets(st.sampled_from(["embed", "head", *(layer_group(i) for i in range(10))]))),
        cordoned=draw(st.sampled_from([False, False, False, True])),
        warm=draw(st.booleans()),
        free_ports=draw(st.sampled_from([2, 100, 100] if roomy else [0, 1, 2, 100, 100])),
    )


@st.composite
def clusters(draw: st.DrawFn, *, roomy: bool = False) -> ClusterState:
    """Up to six nodes; `roomy` ones (at least two) take most models."""
    count = draw(st.integers(2 if roomy else 0, 6))
    return ClusterState(tuple(draw(nodes(f"n{i}", roomy=roomy)) for i in range(count)), NOW)


@st.composite
def bursts_and_splits(draw: st.DrawFn) -> tuple[PlanRequest, ClusterState]:
    """A request whose SLO one link alone can hardly meet, on a cluster whose links can together."""
    drawn = draw(models)
    link_bps = draw(st.integers(500, 2000))
    model = replace(
        drawn,
        layer_bytes=draw(st.lists(st.integers(200, 1000), min_size=4, max_size=10).map(tuple)),
        max_stages=draw(st.integers(2, 4)),
        slo_tpot_ms=None,
        profile=replace(drawn.profile, runtime_floor_ms=0, plain_start_ms=0, per_stage_floor_ms=0, prefill_ms=None),
    )
    share = draw(st.sampled_from([30, 40, 60, 80, 120]))
    alone_ms = model.weights_bytes * 1000 // link_bps
    model = replace(model, slo_ttft_ms=model.profile.tail_ms + alone_ms * share // 100 + 1)
    cluster = tuple(
        replace(draw(nodes(f"n{i}", roomy=True)), link_bps=link_bps * draw(st.integers(1, 2)), cordoned=False)
        for i in range(draw(st.integers(3, 6)))
    )
    return PlanRequest(model, draw(st.sampled_from([1, 1, 1, 2, 4]))), ClusterState(cluster, NOW)
