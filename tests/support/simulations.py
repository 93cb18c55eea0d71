"""Small clusters and models to simulate, and hypothesis strategies that make them."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from orchestrator.policies import HYDRANT, Policy
from orchestrator.simulator.cluster import Cluster, Server
from orchestrator.simulator.host_cache import Keeps
from orchestrator.simulator.simulation import Engine, SimModel, Simulation
from orchestrator.simulator.startup import StartTimes, Style, profile
from orchestrator.simulator.workload import Request
from orchestrator.types import KindProfile, ModelSpec, Profile

GB = 10**9
TIMES = StartTimes(plain_ms=10_000, floor_ms=6_000, load_ms_per_gb=500)
OVERLAPPED = Engine(Style.OVERLAPPED, Keeps.EVERYTHING)


def servers(count: int = 4, **changes: Any) -> Cluster:
    """Servers of one device of 40 GB, a link of 2 GB/s and 100 GB for weights."""
    values: dict[str, Any] = {
        "kind": "gpu",
        "count": count,
        "devices": 1,
        "memory_bytes": 40 * GB,
        "link_bps": 2 * GB,
        "cache_bytes": 100 * GB,
        "times": TIMES,
    }
    return Cluster((Server(**(values | changes)),))


def sim_model(
    name: str = "m", size_gb: int = 16, style: Style = Style.OVERLAPPED, keep_alive_ms: int = 30_000, **changes: Any
) -> SimModel:
    """A model of eight equal layers with a service level of 15 s."""
    size = size_gb * GB
    known = profile(style, TIMES, size, 50, 100)
    values: dict[str, Any] = {
        "name": name,
        "layer_bytes": (size // 8,) * 8,
        "embed_bytes": 0,
        "head_bytes": 0,
        "tied": False,
        "kv_bytes_per_token": 0,
        "kv_reserve_bytes": 4 * GB,
        "slo_ttft_ms": 15_000,
        "slo_tpot_ms": None,
        "profile": Profile(tpot_ms=50, prefill_ms=100),
        "profiles": (KindProfile("gpu", known),),
        "in_place": True,
    }
    return SimModel(ModelSpec(**(values | changes)), name, keep_alive_ms, 1_000)


def simulate(
    requests: Sequence[Request],
    models: Sequence[SimModel] = (sim_model(),),
    cluster: Cluster | None = None,
    engine: Engine = OVERLAPPED,
    policy: Policy = HYDRANT,
) -> Simulation:
    """Run to the end."""
    simulation = Simulation(cluster or servers(), models, engine, policy, requests)
    simulation.run()
    return simulation


def ask(*at_ms: int, model: str = "m", prompt: int = 100, output: int = 20) -> list[Request]:
    """Requests at these moments."""
    return [Request(at, model, prompt, output) for at in at_ms]


clusters = st.builds(
    servers,
    count=st.integers(1, 5),
    devices=st.integers(1, 3),
    memory_bytes=st.integers(22, 60).map(lambda gb: gb * GB),
    link_bps=st.integers(1, 40).map(lambda tenth: tenth * GB // 10),
    cache_bytes=st.integers(0, 60).map(lambda gb: gb * GB),
)
request_lists = st.lists(
    st.builds(
        Request,
        at_ms=st.integers(0, 300_000),
        model=st.sampled_from(["a", "b", "c"]),
        prompt_tokens=st.integers(1, 1000),
        output_tokens=st.integers(1, 300),
    ),
    max_size=25,
)
