"""HydraServe's algorithm as its artifact has it (NSDI '26, "Algorithm 1"): the reference that ours is measured against.

Mended: the prefill counts, a fetch hides behind the runtime but does not undercut it, and a group of whole workers only
(w = s) is scaled up. Kept: stages are taken to be equal, nodes are taken by free bandwidth alone, a model that a node
holds whole starts there, and nothing else that it holds counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from orchestrator import equal_share, memory, predict
from orchestrator.partition import Part, split
from orchestrator.policies.refusal import refuse
from orchestrator.types import (
    MAX_STAGES,
    Candidate,
    ClusterState,
    ConsolidationPlan,
    ConsolidationTarget,
    DeviceState,
    ModelSpec,
    NodeState,
    NoPlan,
    Plan,
    PlanRequest,
    StagePlan,
    Verdict,
)

UNEVEN_PERCENT = 90
"""Stages are not equal: of a pipeline's link time this share is taken to be used."""


@dataclass(frozen=True, slots=True)
class _Site:
    """A node, the device that a stage would have there, and what its link would give one more fetch, in bytes/s."""

    node: NodeState
    device: DeviceState
    bps: int


def plan(request: PlanRequest, cluster: ClusterState) -> Plan | NoPlan:
    """The smallest pipeline with the fewest whole workers that meets both service levels by the paper's prediction.

    One whole worker on the node with the most free bandwidth when none does.
    """
    model = request.model
    nodes = [node for node in cluster.nodes if not node.cordoned and node.free_ports >= 3]
    free = {node.name: available_bps(node, cluster.now_ms) for node in nodes}
    full = _sites(nodes, free, lambda device: memory.full_bytes(model, device.kind))
    hit = _whole_copy(model, nodes)
    if hit is not None:
        return _compose(request, cluster, [hit], 1, (), degraded=False)
    limit = min(MAX_STAGES, model.max_stages, model.layers)
    r = min(request.instances, limit)
    best: list[_Site] | None = None
    w_best = 0
    judged: list[Candidate] = []
    for s in range(1, limit + 1):
        if best is not None and len(best) >= r:
            break
        low = _sites(nodes, free, partial(_need, model, s))
        if len(low) < s:
            judged.append(Candidate(s, min(s, r), Verdict.NO_ROOM))
            continue
        for w in range(min(s, r), s + 1):
            chosen = _choose(full, low, s, w)
            if chosen is None:
                judged.append(Candidate(s, w, Verdict.NO_ROOM))
                break
            judged.append(_judge(request, chosen, s, w))
            if judged[-1].verdict is Verdict.MEETS:
                best, w_best = chosen, w
                break
    if best is None:
        if not full:
            return refuse(model, nodes, tuple(judged))
        return _compose(request, cluster, full[:1], 1, tuple(judged), degraded=True)
    return _compose(request, cluster, best, w_best, tuple(judged), degraded=False)


def available_bps(node: NodeState, now_ms: int) -> int:
    """What the link would give one more fetch, in bytes/s: its equal share, or 0 when that makes another one late.

    The artifact's rule: no fetch is taken to speed up when another ends. One that is late already no longer counts.
    """
    active = [fetch for fetch in node.fetches if fetch.remaining_bytes > 0]
    share = node.link_bps // (len(active) + 1)
    doomed = equal_share.late(node.link_bps, active, now_ms)
    for fetch in active:
        if fetch.key not in doomed and (fetch.deadline_ms - now_ms) * share < fetch.remaining_bytes * 1000:
            return 0
    return share


def _sites(nodes: Sequence[NodeState], free: dict[str, int], need: Callable[[DeviceState], int]) -> list[_Site]:
    """Nodes with bandwidth and room, most bandwidth first, then by name; each with the device that it fits best."""
    found = []
    for node in nodes:
        fitting = [device for device in node.devices if device.free_bytes >= need(device)]
        if free[node.name] > 0 and fitting:
            device = min(fitting, key=lambda device: (device.free_bytes, device.index))
            found.append(_Site(node, device, free[node.name]))
    return sorted(found, key=lambda site: (-site.bps, site.node.name))


def _whole_copy(model: ModelSpec, nodes: Sequence[NodeState]) -> _Site | None:
    """The first node that holds the whole model in host memory and has a device free for it."""
    (whole,) = split(model, 1)
    holding = [node for node in nodes if node.held and whole.missing_bytes(model, node.held) == 0]
    free = dict.fromkeys((node.name for node in holding), 1)
    found = _sites(holding, free, lambda device: memory.full_bytes(model, device.kind))
    return found[0] if found else None


def _choose(full: Sequence[_Site], low: Sequence[_Site], s: int, w: int) -> list[_Site] | None:
    """The `w` whole places with most bandwidth, then the `s - w` other places with most."""
    if w > len(full):
        return None
    chosen = list(full[:w])
    taken = {site.node.name for site in chosen}
    chosen += [site for site in low if site.node.name not in taken][: s - w]
    return chosen if len(chosen) == s else None


def _judge(request: PlanRequest, chosen: Sequence[_Site], s: int, w: int) -> Candidate:
    model = request.model
    slowest = min(site.bps for site in chosen)
    fetch = -(-model.weights_bytes * 1000 // (s * slowest))
    here = [model.on(site.device.kind).profile for site in chosen]
    floor = max(predict.floor_ms(profile, s, warm=site.node.warm) for profile, site in zip(here, chosen, strict=True))
    profile = max(here, key=lambda profile: profile.tail_ms)
    tpot = predict.tpot_ms(profile, s, w)
    ttft = predict.ttft_ms(profile, s, w, waited_ms=request.waited_ms, slowest_ms=max(fetch, floor))
    verdict = Verdict.MEETS if ttft < model.slo_ttft_ms else Verdict.TTFT_TOO_LONG
    if tpot is not None and model.slo_tpot_ms is not None and tpot > model.slo_tpot_ms:
        verdict = Verdict.TPOT_TOO_LONG
    return Candidate(s, w, verdict, ttft_ms=ttft, tpot_ms=tpot, fetch_ms=fetch, floor_ms=floor)


def _compose(
    request: PlanRequest,
    cluster: ClusterState,
    chosen: Sequence[_Site],
    w: int,
    judged: tuple[Candidate, ...],
    *,
    degraded: bool,
) -> Plan:
    model, s = request.model, len(chosen)
    own = replace(_judge(request, chosen, s, w), verdict=Verdict.CHOSEN)
    parts = split(model, s)
    stages, targets = [], []
    for rank, (site, part) in enumerate(zip(chosen, parts, strict=True)):
        seat = _seat(model, site, s) if s > 1 and rank < w else None
        stages.append(_stage(request, cluster, rank, site, part, s, seat))
        if seat is not None:
            targets.append(_target(model, rank, site, part, seat))
    return Plan(
        model=model.name,
        s=s,
        w=w,
        stages=tuple(stages),
        predicted_ttft_ms=own.ttft_ms or 0,
        predicted_tpot_ms=own.tpot_ms,
        degraded=degraded,
        consolidate=ConsolidationPlan(tuple(targets)) if s > 1 else None,
        candidates=(*(c for c in judged if (c.s, c.w) != (s, w)), own),
        reasons=(),
        waited_ms=request.waited_ms,
    )


def _stage(
    request: PlanRequest, cluster: ClusterState, rank: int, site: _Site, part: Part, s: int, seat: memory.Seat | None
) -> StagePlan:
    model = request.model
    profile = model.on(site.device.kind).profile
    if seat is None:
        device, reserved = site.device.index, _need(model, s, site.device)
    else:
        device, reserved = seat.device, seat.stage_bytes
    return StagePlan(
        rank=rank,
        node=site.node.name,
        device=device,
        first_layer=part.first,
        layer_count=part.count,
        reserved_bytes=reserved,
        full=seat is not None or s == 1,
        fetch_bytes=part.missing_bytes(model, site.node.held) if s == 1 else part.size_bytes,
        deadline_ms=max(cluster.now_ms, cluster.now_ms + model.slo_ttft_ms - request.waited_ms - profile.tail_ms),
        rate_bps=site.bps,
    )


def _need(model: ModelSpec, s: int, device: DeviceState) -> int:
    """Memory of one of `s` stages: the paper's (M + K) / s, and a context of its own for each process."""
    context = memory.context_bytes(model, device.kind)
    return -(-(memory.full_bytes(model, device.kind) - context) // s) + context


def _seat(model: ModelSpec, site: _Site, s: int) -> memory.Seat | None:
    """Where a stage and the whole worker that follows it lie on that node; there is a device for a whole worker."""
    full = memory.full_bytes(model, site.device.kind)
    if model.in_place:
        return memory.seat_in_place([site.device], full)
    devices = [device for device in site.node.devices if device.kind == site.device.kind]
    return memory.seat_full_stage(devices, _need(model, s, site.device), full, drain_first=True)


def _target(model: ModelSpec, rank: int, site: _Site, part: Part, seat: memory.Seat) -> ConsolidationTarget:
    if seat.mode is None:
        raise ValueError(f"{model.name}: the seat of a whole stage says how its worker follows")
    return ConsolidationTarget(
        rank=rank,
        node=site.node.name,
        device=seat.standalone_device,
        mode=seat.mode,
        memory_bytes=memory.full_bytes(model, site.device.kind),
        reserved_bytes=seat.standalone_bytes,
        fetch_bytes=model.weights_bytes - part.size_bytes,
    )
