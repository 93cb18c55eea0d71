"""Which node takes which stage: the assignment whose slowest stage is ready first, or one that leaves fast links to
others."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from operator import itemgetter

from orchestrator import deadlines, equal_share, memory, predict
from orchestrator.partition import Part
from orchestrator.types import ClusterState, DeviceState, Fetch, ModelSpec, NodeState, PlanRequest, Sharing, Verdict

NEVER_MS = 1 << 62
SURE_PERCENT = 90
"""A frugal start that would be ready within this share of its time is sure to be in time: predictions are some percent
off (docs/simulation.md)."""
_Rank = tuple[int, int]
_TurnOf = Callable[[int, Sequence[Fetch], int], deadlines.Turn | None]
"""A link's rate, its fetches, and the bytes of one more: its turn, if it may start now."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node could do for one stage.

    fetch_bytes  what the node lacks of the stage; fetch_ms  how long that takes in its turn among the other fetches.
    deadline_ms  by which it gets its turn.
    rank         how good it is, the least the best: by when the stage is ready and how long its fetch takes; for a
                 frugal request, where it is in time, by the link alone.
    held_bytes   what it holds of the stage already.
    blocked      what besides memory forbids it now (links or ports); None when nothing does.
    """

    node: NodeState
    kind: str
    seat: memory.Seat
    full: bool
    fetch_bytes: int
    held_bytes: int
    fetch_ms: int
    floor_ms: int
    deadline_ms: int
    rank: _Rank
    blocked: Verdict | None

    @property
    def ready_ms(self) -> int:
        """When the stage could be ready here, from now: the later of its fetch and the runtime floor."""
        return max(self.fetch_ms, self.floor_ms)

    @property
    def rank_key(self) -> tuple[_Rank, int, bool, str]:
        """Order of preference: the rank, the better fit, no other fetch, the name."""
        return (self.rank, self.seat.spare_bytes, bool(self.node.fetches), self.node.name)


@dataclass(frozen=True, slots=True)
class Site:
    """A node that may take a stage, with its devices of one kind.

    largest_bytes  the most memory that is free on one of them.
    """

    node: NodeState
    kind: str
    devices: tuple[DeviceState, ...]
    largest_bytes: int

    @property
    def order(self) -> tuple[bool, str]:
        """Among equals a node without fetches comes first, then the name."""
        return (bool(self.node.fetches), self.node.name)


def distinct(nodes: Sequence[NodeState], limit: int) -> list[NodeState]:
    """The first `limit` nodes, by order, of each make; those with fetches only of makes with fewer that have none.

    A pipeline of at most `limit` stages never needs more of them: for any stage, a node without fetches is ready no
    later than one that is equal but for fetches. A large cluster is mostly a few makes.
    """
    idle: dict[str, int] = {}
    kept: list[NodeState] = []
    for node in nodes:
        if not node.fetches and (count := idle.get(node.make, 0)) < limit:
            idle[node.make] = count + 1
            kept.append(node)
    return kept + [node for node in nodes if node.fetches and idle.get(node.make, 0) < limit]


class Placer:
    """Places pipelines for one request on those of `sites` that are of given kinds; keeps what it has worked out."""

    def __init__(self, request: PlanRequest, sites: Sequence[Site], cluster: ClusterState) -> None:
        self._request = request
        self._sites: dict[str, list[Site]] = {}
        for site in sites:
            self._sites.setdefault(site.kind, []).append(site)
        self.models: Mapping[str, ModelSpec] = {kind: request.model.on(kind) for kind in self._sites}
        """The model as it is on each kind of device."""
        self._now_ms = cluster.now_ms
        self._store = cluster.store
        self._turn = deadlines.turn if cluster.sharing is Sharing.BY_DEADLINE else equal_share.turn
        self._holding = any(site.node.held for site in sites)
        self._ranks: dict[tuple[str, int, object], list[tuple[_Rank, Site]]] = {}
        self._offers: dict[tuple[str, int, int, bool, bool], list[Offer]] = {}

    def place(
        self, kinds: Sequence[str], parts: Sequence[Part], w: int, *, drain_first: bool
    ) -> tuple[Offer, ...] | Verdict:
        """One offer for each stage, `w` full ones first, or what stands in the way.

        The slowest stage is ready as early as possible; among equals the sum of fetch times is least, then the best
        fit, then the first names. Of a frugal request the sum of link rates is least, if all are in time.
        `drain_first` also accepts nodes that can run the whole worker only after the stage.
        """
        table = [
            self._offers_of(kinds, parts, rank, full=rank < w, drain_first=drain_first) for rank in range(len(parts))
        ]
        chosen = _assign([[offer for offer in offers if offer.blocked is None] for offers in table])
        if chosen is not None:
            return chosen
        if _assign(table) is None:
            return Verdict.NO_ROOM
        no_link_limit = [[offer for offer in offers if offer.blocked is not Verdict.NO_PORTS] for offers in table]
        if _assign(no_link_limit) is None:
            return Verdict.NO_PORTS
        linked = any(offer.node.link_bps for offers in table for offer in offers)
        return Verdict.LINKS_BUSY if linked else Verdict.LINKS_DOWN

    def store_ms(self, offers: Sequence[Offer]) -> int:
        """How long the store takes to give what these stages lack together, in its turn among what it gives others.

        Its egress is a link like any other, but nobody holds it to deadlines: that its other fetches make room for
        what is due earlier is a prediction.
        """
        size = sum(offer.fetch_bytes for offer in offers)
        if self._store is None:
            return 0
        due_ms = self._now_ms + min(self._within_ms(len(offers), offer.kind) for offer in offers)
        turn = self._turn(self._store.egress_bps, self._store.fetches, size, self._now_ms, due_ms)
        return NEVER_MS if turn is None else turn.fetch_ms

    def _offers_of(
        self, kinds: Sequence[str], parts: Sequence[Part], rank: int, *, full: bool, drain_first: bool
    ) -> list[Offer]:
        offers = [self._offers_for(kind, parts, rank, full=full, drain_first=drain_first) for kind in kinds]
        return offers[0] if len(offers) == 1 else sorted(chain(*offers), key=lambda offer: offer.rank_key)

    def _offers_for(self, kind: str, parts: Sequence[Part], rank: int, *, full: bool, drain_first: bool) -> list[Offer]:
        key = (kind, len(parts), rank, full, drain_first)
        if key not in self._offers:
            ready = self._offers_for(kind, parts, rank, full=full, drain_first=False) if drain_first else []
            offering = {offer.node.name for offer in ready}
            within_ms = self._within_ms(len(parts), kind)
            turn = partial(self._turn, now_ms=self._now_ms, deadline_ms=self._now_ms + within_ms)
            sure_ms = within_ms * SURE_PERCENT // 100 if self._request.frugal else -1
            need = _Need(self.models[kind], kind, parts, rank, turn, sure_ms, full=full, drain_first=drain_first)
            found = ready + self._best(need, offering, len(parts))
            self._offers[key] = sorted(found, key=lambda offer: offer.rank_key)
        return self._offers[key]

    def _within_ms(self, s: int, kind: str) -> int:
        """Within what time a stage of a pipeline of `s` must be ready for the first token to be in time, with the
        slowest of prefills."""
        after_ms = predict.after_fetch_ms(self.models[kind].profile, s, 1)
        return self._request.model.slo_ttft_ms - self._request.waited_ms - after_ms

    def _best(self, need: "_Need", without: Collection[str], count: int) -> list[Offer]:
        """The first offers, in the order of their rank, up to the `count`-th that nothing forbids.

        No pipeline takes more of them for one stage, and whether it would have to do without links or ports shows in
        these as well.
        """
        found: list[Offer] = []
        free = 0
        for _, equals in groupby(self._by_rank(need, count), key=itemgetter(0)):
            seats = ((site, need.seat(site)) for _, site in equals if site.node.name not in without)
            seated = [(site, seat) for site, seat in seats if seat is not None]
            for site, seat in sorted(seated, key=lambda one: (one[1].spare_bytes, one[0].order)):
                found.append(_offer(need, site.node, seat))
                free += found[-1].blocked is None
                if free == count:
                    return found
        return found

    def _by_rank(self, need: "_Need", s: int) -> list[tuple[_Rank, Site]]:
        """All sites by how good they are for the stage, which is the same for every stage of that size."""
        key = (need.kind, s, need.part.groups if self._holding else need.part.size_bytes)
        if key not in self._ranks:
            ranks = ((need.rank_there(site.node), site) for site in self._sites[need.kind])
            self._ranks[key] = sorted(ranks, key=itemgetter(0))
        return self._ranks[key]


class _Need:
    """What one stage asks of a node, worked out once for all nodes."""

    def __init__(
        self,
        model: ModelSpec,
        kind: str,
        parts: Sequence[Part],
        rank: int,
        turn_of: _TurnOf,
        sure_ms: int,
        *,
        full: bool,
        drain_first: bool,
    ) -> None:
        s = len(parts)
        self.kind = kind
        self.model = model
        self.part = parts[rank]
        self.full = full
        self.drain_first = drain_first
        self.alone = s == 1 or not full
        self.whole_bytes = memory.full_bytes(model, kind)
        self.own_bytes = self.whole_bytes if s == 1 else memory.stage_bytes(model, self.part, kind)
        self.least_bytes = self.own_bytes if self.alone else self.whole_bytes
        self.floor_ms = {warm: predict.floor_ms(model.profile, s, warm=warm) for warm in (False, True)}
        self.ports = ports_needed(s, rank, full=full)
        self.turn_of = turn_of
        self.sure_ms = sure_ms

    def seat(self, site: Site) -> memory.Seat | None:
        """Where the stage would sit; None when the site lacks the memory."""
        if site.largest_bytes < self.least_bytes:
            return None
        if self.alone:
            return memory.seat_stage(site.devices, self.own_bytes)
        if self.model.in_place:
            return memory.seat_in_place(site.devices, self.whole_bytes)
        return memory.seat_full_stage(site.devices, self.own_bytes, self.whole_bytes, drain_first=self.drain_first)

    def missing_bytes(self, node: NodeState) -> int:
        """What that node lacks of it."""
        return self.part.missing_bytes(self.model, node.held)

    def rank_there(self, node: NodeState) -> _Rank:
        """Its rank on that node."""
        return self.rank(node, self.turn_of(node.link_bps, node.fetches, self.missing_bytes(node)))

    def rank(self, node: NodeState, turn: deadlines.Turn | None) -> _Rank:
        """See Offer; where it cannot be fetched now, last."""
        if turn is None:
            return (NEVER_MS, NEVER_MS)
        ready_ms = max(turn.fetch_ms, self.floor_ms[node.warm])
        return (0, node.link_bps) if ready_ms <= self.sure_ms else (ready_ms, turn.fetch_ms)


def _offer(need: _Need, node: NodeState, seat: memory.Seat) -> Offer:
    """What the node could do for that stage, which would sit there."""
    missing = need.missing_bytes(node)
    turn = need.turn_of(node.link_bps, node.fetches, missing)
    blocked = None
    if node.free_ports < need.ports:
        blocked = Verdict.NO_PORTS
    elif turn is None:
        blocked = Verdict.LINKS_BUSY if node.link_bps else Verdict.LINKS_DOWN
    return Offer(
        node=node,
        kind=need.kind,
        seat=seat,
        full=need.full,
        fetch_bytes=missing,
        held_bytes=need.part.size_bytes - missing,
        fetch_ms=0 if turn is None else turn.fetch_ms,
        floor_ms=need.floor_ms[node.warm],
        deadline_ms=0 if turn is None else turn.deadline_ms,
        rank=need.rank(node, turn),
        blocked=blocked,
    )


def ports_needed(s: int, rank: int, *, full: bool) -> int:
    """Ports a stage takes: its own, the rendezvous on the first rank, and its future standalone worker's."""
    if s == 1:
        return 1
    return 1 + (rank == 0) + full


def _of_first_nodes(offers: Sequence[Offer], count: int) -> list[Offer]:
    """The best offer of each of the first `count` nodes; one with several kinds of device makes several."""
    first: dict[str, Offer] = {}
    for offer in offers:
        if len(first) == count:
            break
        first.setdefault(offer.node.name, offer)
    return list(first.values())


def _assign(table: Sequence[Sequence[Offer]]) -> tuple[Offer, ...] | None:
    """The best assignment of one node to each stage, whose offers come best first, or None.

    With s stages the best offers of s nodes suffice: in any assignment that uses a worse one, one of those is free.
    So at most 4^4 combinations are looked at, however many nodes there are.
    """
    shortlist = [_of_first_nodes(offers, len(table)) for offers in table]
    best: tuple[int, int, int, int, tuple[str, ...]] | None = None
    chosen: tuple[Offer, ...] | None = None

    def extend(taken: tuple[Offer, ...], slowest: int, fetching: int, spare: int) -> None:
        nonlocal best, chosen
        if best is not None and (slowest, fetching, spare) > best[:3]:
            return
        if len(taken) == len(shortlist):
            others = sum(bool(offer.node.fetches) for offer in taken)
            cost = (slowest, fetching, spare, others, tuple(offer.node.name for offer in taken))
            if best is None or cost < best:
                best, chosen = cost, taken
            return
        used = {offer.node.name for offer in taken}
        for offer in shortlist[len(taken)]:
            if offer.node.name not in used:
                extend(
                    (*taken, offer),
                    max(slowest, offer.rank[0]),
                    fetching + offer.rank[1],
                    spare + offer.seat.spare_bytes,
                )

    extend((), 0, 0, 0)
    return chosen
