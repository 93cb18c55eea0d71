"""Why a plan was chosen, as data; `orchestrator.explain` turns it into words."""

from collections.abc import Iterator, Sequence

from orchestrator.placement import Offer
from orchestrator.types import Candidate, ConsolidationMode, PlanRequest, Reason, ReasonCode

TELLING_WAIT_MS = 100
"""A shorter wait is counted, but not told: nearly every start has one, and in words it is of 0 s."""
_MODES = {mode: ReasonCode(mode.value) for mode in ConsolidationMode}


def explain_choice(
    request: PlanRequest, chosen: Candidate, judged: Sequence[Candidate], offers: Sequence[Offer], *, degraded: bool
) -> tuple[Reason, ...]:
    """The reasons for taking `chosen`, placed as `offers`: first the choice itself, then what it rests on."""
    return (*_choice(request, chosen, judged, offers, degraded=degraded), *_placement(offers))


def _choice(
    request: PlanRequest, chosen: Candidate, judged: Sequence[Candidate], offers: Sequence[Offer], *, degraded: bool
) -> Iterator[Reason]:
    model = request.model
    facts: dict[str, int | str] = {"s": chosen.s, "w": chosen.w, "slo_ttft_ms": model.slo_ttft_ms}
    if chosen.ttft_ms is not None:
        facts["ttft_ms"] = chosen.ttft_ms
    if chosen.tpot_ms is not None and model.slo_tpot_ms is not None:
        facts |= {"tpot_ms": chosen.tpot_ms, "slo_tpot_ms": model.slo_tpot_ms}
    yield Reason(ReasonCode.DEGRADED if degraded else ReasonCode.MEETS_SLO, facts)
    if request.waited_ms >= TELLING_WAIT_MS:
        yield Reason(ReasonCode.WAITED, {"waited_ms": request.waited_ms})
    if chosen.fetch_ms is not None and chosen.fetch_ms > max(offer.fetch_ms for offer in offers):
        yield Reason(ReasonCode.STORE, {"fetch_ms": chosen.fetch_ms})
    smaller = [c.ttft_ms for c in judged if c.s < chosen.s and c.ttft_ms is not None]
    if smaller and request.instances == 1 and not degraded:
        yield Reason(ReasonCode.SPLIT_NEEDED, {"best_ttft_ms": min(smaller), "s": chosen.s - 1})
    if request.instances > 1:
        enough = chosen.w >= request.instances
        yield Reason(
            ReasonCode.BURST if enough else ReasonCode.FEWER_INSTANCES,
            {"instances": request.instances, "w": chosen.w},
        )
    unmeasured = [
        name
        for name, value in (("tpot", model.profile.tpot_ms), ("prefill", model.profile.prefill_ms))
        if value is None
    ]
    if unmeasured:
        yield Reason(ReasonCode.NOT_PROFILED, {"what": " and ".join(unmeasured)})


def _placement(offers: Sequence[Offer]) -> Iterator[Reason]:
    for rank, offer in enumerate(offers):
        where: dict[str, int | str] = {"rank": rank, "node": offer.node.name}
        if offer.held_bytes:
            yield Reason(ReasonCode.HELD, {**where, "bytes": offer.held_bytes})
        if not offer.node.warm:
            yield Reason(ReasonCode.PLAIN_START, where)
        if offer.seat.mode is not None:
            yield Reason(_MODES[offer.seat.mode], {**where, "device": offer.seat.standalone_device})
