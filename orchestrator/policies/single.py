"""The baselines that start a model as one whole worker: Serverless vLLM and ServerlessLLM, as the paper ran them.

Both start in sequence: the runtime first, then the fetch. Neither looks at what else crosses a link.
"""

from collections.abc import Iterator

from orchestrator import equal_share, memory, predict
from orchestrator.partition import split
from orchestrator.policies.refusal import refuse
from orchestrator.types import (
    Candidate,
    ClusterState,
    DeviceState,
    ModelSpec,
    NodeState,
    NoPlan,
    Plan,
    PlanRequest,
    StagePlan,
    Verdict,
)


def first_fit(request: PlanRequest, cluster: ClusterState) -> Plan | NoPlan:
    """Serverless vLLM: the first device, by the names of nodes, that has room."""
    for node, device in _devices(cluster):
        need = memory.full_bytes(request.model, device.kind)
        if device.free_bytes >= need and _can_fetch(request.model, node):
            return _whole_worker(request, cluster, node, device, need)
    return refuse(request.model, [node for node in cluster.nodes if not node.cordoned])


def storage_aware(request: PlanRequest, cluster: ClusterState) -> Plan | NoPlan:
    """ServerlessLLM: the device on which the model is estimated to be loaded first, which it then has for itself.

    A node that holds the model in host memory copies it from there; others fetch it at their link's fair share.
    """
    best: tuple[int, NodeState, DeviceState] | None = None
    for node, device in _devices(cluster):
        whole = device.free_bytes == device.memory_bytes >= memory.full_bytes(request.model, device.kind)
        if whole and _can_fetch(request.model, node):
            ready = _ready_ms(request.model, node, device)
            if best is None or ready < best[0]:
                best = (ready, node, device)
    if best is None:
        return refuse(request.model, [node for node in cluster.nodes if not node.cordoned], whole_device=True)
    _, node, device = best
    return _whole_worker(request, cluster, node, device, device.memory_bytes)


def _devices(cluster: ClusterState) -> Iterator[tuple[NodeState, DeviceState]]:
    for node in sorted(cluster.nodes, key=lambda node: node.name):
        if not node.cordoned and node.free_ports >= 1:
            for device in node.devices:
                yield node, device


def _missing(model: ModelSpec, node: NodeState) -> int:
    (whole,) = split(model, 1)
    return whole.missing_bytes(model, node.held)


def _can_fetch(model: ModelSpec, node: NodeState) -> bool:
    return node.link_bps > 0 or _missing(model, node) == 0


def _fetch_ms(model: ModelSpec, node: NodeState) -> int:
    return equal_share.assess(node.link_bps, node.fetches, _missing(model, node), 0).fetch_ms


def _ready_ms(model: ModelSpec, node: NodeState, device: DeviceState) -> int:
    here = model.on(device.kind)
    return predict.floor_ms(here.profile, 1, warm=node.warm) + _fetch_ms(model, node) + here.profile.tail_ms


def _whole_worker(
    request: PlanRequest, cluster: ClusterState, node: NodeState, device: DeviceState, reserved: int
) -> Plan:
    model = request.model
    profile = model.on(device.kind).profile
    ttft = request.waited_ms + _ready_ms(model, node, device) + (profile.prefill_ms or 0)
    fetch = _fetch_ms(model, node)
    degraded = ttft >= model.slo_ttft_ms
    chosen = Candidate(1, 1, Verdict.CHOSEN, ttft_ms=ttft, tpot_ms=profile.tpot_ms, fetch_ms=fetch)
    stage = StagePlan(
        rank=0,
        node=node.name,
        device=device.index,
        first_layer=0,
        layer_count=model.layers,
        reserved_bytes=reserved,
        full=True,
        fetch_bytes=_missing(model, node),
        deadline_ms=max(cluster.now_ms, cluster.now_ms + model.slo_ttft_ms - request.waited_ms),
        rate_bps=0,
    )
    tpot, waited = profile.tpot_ms, request.waited_ms
    return Plan(model.name, 1, 1, (stage,), ttft, tpot, degraded, None, (chosen,), (), waited)
