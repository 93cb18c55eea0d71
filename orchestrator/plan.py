"""How to start a model: over how many nodes, on which devices, and what to expect of it.

The algorithm is HydraServe's (NSDI '26): try pipeline sizes from small to large and take the first that meets both
service levels with the fewest full-memory workers; in a burst go on until as many stages as instances needed. The
cheapest plan that is good enough wins, not the fastest one. When none is good enough, one whole worker serves anyway.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from orchestrator import equal_share, memory, predict
from orchestrator.partition import Part, split
from orchestrator.placement import Offer, Placer, Site, distinct
from orchestrator.reasons import explain_choice
from orchestrator.together import reserved_bytes
from orchestrator.types import (
    MAX_STAGES,
    Candidate,
    ClusterState,
    ConsolidationMode,
    ConsolidationPlan,
    ConsolidationTarget,
    ModelSpec,
    NodeState,
    NoPlan,
    NoPlanReason,
    Plan,
    PlanRequest,
    StagePlan,
    Verdict,
)

RETRY_MS = 2_000
"""When to ask again after memory, ports or nodes were short: nothing here knows when they will be there again."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """A placed candidate."""

    candidate: Candidate
    parts: tuple[Part, ...]
    offers: tuple[Offer, ...]


def plan(request: PlanRequest, cluster: ClusterState, max_stages: int = MAX_STAGES) -> Plan | NoPlan:
    """The cheapest start of `request.model` that meets its service levels, or why there is none.

    The same arguments always give the same answer; among equal nodes the first name wins. Of several kinds of device
    the one that takes least memory is used; they are mixed where none alone is in time, and CPUs are for what no
    accelerator can take in time. ValueError when `max_stages` is below 1.
    """
    if max_stages < 1:
        raise ValueError(f"max_stages: expected at least 1, got {max_stages}")
    usable = sorted((node for node in cluster.nodes if not node.cordoned), key=attrgetter("name"))
    limit = min(max_stages, request.model.max_stages, request.model.layers)
    few = distinct(usable, limit)
    kinds = {device.kind for node in few for device in node.devices}
    if not kinds:
        cordoned = len(cluster.nodes) - len(usable)
        none = NoPlan(request.model.name, NoPlanReason.NO_NODES, {"cordoned": cordoned}, (), None)
        return _unless_nodes_return(none, cluster)
    placer = Placer(request, _sites(few, sorted(kinds)), cluster)
    accelerators, cpus = sorted(kinds - {"cpu"}), sorted(kinds & {"cpu"})
    outcomes = [_plan_on(request, placer, [kind], few, usable, limit) for kind in accelerators]
    if len(accelerators) > 1 and not any(isinstance(one, Plan) and not one.degraded for one in outcomes):
        outcomes.append(_plan_on(request, placer, accelerators, few, usable, limit))
    best = _best(outcomes)
    if cpus and (best is None or isinstance(best, NoPlan) or best.degraded):
        # A CPU that is late is no better than an accelerator that is.
        on_cpus = _plan_on(request, placer, cpus, few, usable, limit)
        if not isinstance(best, Plan) or (isinstance(on_cpus, Plan) and not on_cpus.degraded):
            best = on_cpus if isinstance(on_cpus, Plan) else best or on_cpus
    assert best is not None, "there is a kind"
    return best if isinstance(best, Plan) else _unless_nodes_return(best, cluster)


def _best(outcomes: Sequence[Plan | NoPlan]) -> Plan | NoPlan | None:
    """The plan in time that takes least memory, else the one that is least late, else the first refusal."""
    plans = [one for one in outcomes if isinstance(one, Plan)]
    in_time = [one for one in plans if not one.degraded]
    if in_time:
        return min(in_time, key=lambda one: (reserved_bytes(one), one.predicted_ttft_ms))
    if plans:
        return min(plans, key=attrgetter("predicted_ttft_ms"))
    return outcomes[0] if outcomes else None


def _unless_nodes_return(refusal: NoPlan, cluster: ClusterState) -> NoPlan:
    """The refusal, which is not for good while a node is silent or none has reported yet: a node may change it."""
    if refusal.retry_after_ms is None and (cluster.silent or not cluster.nodes):
        refusal = replace(refusal, retry_after_ms=RETRY_MS)
    if cluster.silent:
        refusal = replace(refusal, detail={**refusal.detail, "silent": ", ".join(sorted(cluster.silent))})
    return refusal


def _plan_on(
    request: PlanRequest,
    placer: Placer,
    kinds: Sequence[str],
    few: Sequence[NodeState],
    usable: Sequence[NodeState],
    limit: int,
) -> Plan | NoPlan:
    """`few`: enough of `usable` to plan on."""
    if len(kinds) == 1:
        request = replace(request, model=request.model.on(kinds[0]))
    nodes = sum(any(device.kind in kinds for device in node.devices) for node in few)
    choice, fallback, candidates = _search(request, placer, kinds, nodes, limit)
    if choice is not None:
        return _compose(request, placer, choice, candidates, degraded=False)
    if fallback is not None:
        return _compose(request, placer, fallback, candidates, degraded=True)
    return _refuse(request.model, kinds[0], _sites(usable, kinds), candidates)


def _sites(nodes: Iterable[NodeState], kinds: Sequence[str]) -> list[Site]:
    """The nodes that have devices of these kinds, with these, once for each kind."""
    found = []
    for node in nodes:
        for kind in kinds:
            devices = tuple(device for device in node.devices if device.kind == kind)
            if devices:
                found.append(Site(node, kind, devices, max(device.free_bytes for device in devices)))
    return found


def _search(
    request: PlanRequest, placer: Placer, kinds: Sequence[str], nodes: int, limit: int
) -> tuple[_Choice | None, _Choice | None, list[Candidate]]:
    """The chosen candidate if one meets the service levels, the single worker if it can be placed, and all judged."""
    r = min(request.instances, limit)
    best: _Choice | None = None
    single: _Choice | None = None
    judged: list[Candidate] = []
    for s in range(1, limit + 1):
        if best is not None and best.candidate.s >= r:
            break
        if nodes < s:
            judged.append(Candidate(s, min(s, r), Verdict.TOO_FEW_NODES))
            break
        for w in range(min(s, r), s + 1):
            candidate, placed = _judge(request, placer, kinds, s, w)
            judged.append(candidate)
            if s == 1:
                single = placed
            if placed is not None and candidate.verdict is Verdict.MEETS:
                best = placed
                break
    return best, single, judged


def _judge(
    request: PlanRequest, placer: Placer, kinds: Sequence[str], s: int, w: int
) -> tuple[Candidate, _Choice | None]:
    """Place (s, w) and hold its predictions against the service levels.

    Standalone workers that must wait for their stage to stop are considered only if it does not work out otherwise.
    """
    model = request.model
    parts = split(model, s)
    tpot = _tpot([placer.models[kind] for kind in kinds], s, w, request.batch)
    candidate, placed = Candidate(s, w, Verdict.NO_ROOM, tpot_ms=tpot), None
    for drain_first in (False, True) if s > 1 else (False,):
        offers = placer.place(kinds, parts, w, drain_first=drain_first)
        if isinstance(offers, Verdict):
            if placed is None:
                candidate = Candidate(s, w, offers, tpot_ms=tpot)
            continue
        store_ms = placer.store_ms(offers)
        slowest = max(store_ms, *(offer.ready_ms for offer in offers))
        here = [placer.models[kind] for kind in dict.fromkeys(offer.kind for offer in offers)]
        tpot = _tpot(here, s, w, request.batch)
        ttft = max(predict.ttft_ms(one.profile, s, w, waited_ms=request.waited_ms, slowest_ms=slowest) for one in here)
        if placed is not None and candidate.ttft_ms is not None and ttft >= candidate.ttft_ms:
            continue
        candidate = Candidate(
            s,
            w,
            _verdict(model, ttft, tpot),
            ttft_ms=ttft,
            tpot_ms=tpot,
            fetch_ms=max(store_ms, *(offer.fetch_ms for offer in offers)),
            floor_ms=max(offer.floor_ms for offer in offers),
        )
        placed = _Choice(candidate, parts, offers)
        if candidate.verdict is not Verdict.TTFT_TOO_LONG:
            break
    return candidate, placed


def _tpot(models: Iterable[ModelSpec], s: int, w: int, batch: int) -> int | None:
    """The slowest kind's time per token, of those that it was measured on."""
    paces = (predict.tpot_ms(model.profile, s, w, batch) for model in models)
    return max((pace for pace in paces if pace is not None), default=None)


def _verdict(model: ModelSpec, ttft: int, tpot: int | None) -> Verdict:
    if tpot is not None and model.slo_tpot_ms is not None and tpot > model.slo_tpot_ms:
        return Verdict.TPOT_TOO_LONG
    return Verdict.MEETS if ttft < model.slo_ttft_ms else Verdict.TTFT_TOO_LONG


def _compose(
    request: PlanRequest, placer: Placer, choice: _Choice, judged: Sequence[Candidate], *, degraded: bool
) -> Plan:
    chosen = replace(choice.candidate, verdict=Verdict.CHOSEN)
    candidates = tuple(chosen if candidate == choice.candidate else candidate for candidate in judged)
    stages = tuple(_stage(rank, choice.parts[rank], offer) for rank, offer in enumerate(choice.offers))
    targets = tuple(
        _target(placer.models[offer.kind], rank, choice.parts[rank], offer, offer.seat.mode)
        for rank, offer in enumerate(choice.offers)
        if offer.seat.mode is not None
    )
    return Plan(
        model=request.model.name,
        s=chosen.s,
        w=chosen.w,
        stages=stages,
        predicted_ttft_ms=chosen.ttft_ms or 0,
        predicted_tpot_ms=chosen.tpot_ms,
        degraded=degraded,
        consolidate=ConsolidationPlan(targets) if chosen.s > 1 else None,
        candidates=candidates,
        reasons=explain_choice(request, chosen, candidates, choice.offers, degraded=degraded),
        waited_ms=request.waited_ms,
    )


def _stage(rank: int, part: Part, offer: Offer) -> StagePlan:
    return StagePlan(
        rank=rank,
        node=offer.node.name,
        device=offer.seat.device,
        first_layer=part.first,
        layer_count=part.count,
        reserved_bytes=offer.seat.stage_bytes,
        full=offer.full,
        fetch_bytes=offer.fetch_bytes,
        deadline_ms=offer.deadline_ms,
        rate_bps=offer.fetch_bytes * 1000 // offer.fetch_ms if offer.fetch_ms else 0,
    )


def _target(model: ModelSpec, rank: int, part: Part, offer: Offer, mode: ConsolidationMode) -> ConsolidationTarget:
    """The standalone worker of a full stage; its node will hold the stage's own bytes by then."""
    (whole,) = split(model, 1)
    return ConsolidationTarget(
        rank=rank,
        node=offer.node.name,
        device=offer.seat.standalone_device,
        mode=mode,
        memory_bytes=memory.full_bytes(model, offer.kind),
        reserved_bytes=offer.seat.standalone_bytes,
        fetch_bytes=whole.missing_bytes(model, offer.node.held.union(part.groups)),
    )


def _refuse(model: ModelSpec, kind: str, sites: Sequence[Site], judged: Sequence[Candidate]) -> NoPlan:
    """Why not even a single worker can be placed, with the numbers a person needs to change that."""
    need = memory.full_bytes(model, kind)
    devices = [device for site in sites for device in site.devices]
    verdict = judged[0].verdict
    if verdict is Verdict.NO_ROOM:
        largest = max(device.memory_bytes for device in devices)
        free = max(device.free_bytes for device in devices)
        detail: dict[str, int | str] = {"need_bytes": need, "largest_bytes": largest, "free_bytes": free}
        if largest < need:
            return NoPlan(model.name, NoPlanReason.MODEL_TOO_LARGE, detail, tuple(judged), None)
        return NoPlan(model.name, NoPlanReason.NO_MEMORY, detail, tuple(judged), RETRY_MS)
    if verdict is Verdict.NO_PORTS:
        return NoPlan(model.name, NoPlanReason.NO_PORTS, {"nodes": len(sites)}, tuple(judged), RETRY_MS)
    nodes = [site.node for site in sites if site.node.link_bps > 0]
    ends = [ms for node in nodes for ms in equal_share.finish_ms(node.link_bps, node.fetches).values() if ms > 0]
    if verdict is Verdict.LINKS_DOWN or not ends:
        return NoPlan(model.name, NoPlanReason.LINKS_DOWN, {"nodes": len(sites)}, tuple(judged), None)
    return NoPlan(model.name, NoPlanReason.LINKS_BUSY, {"fetches": len(ends)}, tuple(judged), min(ends))
