"""Models and their prices."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from registry.ids import now_ms
from registry.models import Alias, Group, Model, Price
from registry.ops import aliases, models, prices
from registry.ops.money import format_dollars, format_price_per_million


class PriceDocument(TypedDict):
    """A price in nano-dollars a token and a request, and in dollars per million tokens and a request.

    `gpu_second_*`: of a whole device for a second.
    """

    price_id: str
    from_ms: int
    input_nusd: int
    cached_input_nusd: int
    output_nusd: int
    request_nusd: int
    gpu_second_nusd: int
    input_usd_per_million: str
    cached_input_usd_per_million: str
    output_usd_per_million: str
    request_usd: str
    gpu_second_usd: str


class AliasDocument(TypedDict):
    """Another name of models, with the weight of each behind it: its share of the requests out of their sum."""

    name: str
    models: dict[str, int]


class ModelGroupDocument(TypedDict):
    """A group that runs or starts: one or more engine processes that serve the model together."""

    group_id: str
    state: str
    reason: str | None
    why: dict[str, Any] | None
    stages: int
    cold_start_id: str | None
    created_at_ms: int


class ModelDocument(TypedDict):
    """A model without its manifest, which is as long as its list of tensors.

    `kept_s`: how long an idle worker is kept while memory is short, and `kept_in_plenty_s` while nobody needs it;
    `pauses`: from how many pauses that was learnt. `expected_ms`: from when until when it is likely to be asked for
    again.
    """

    model_id: str
    name: str
    source: str
    enabled: bool
    lane: str
    provider: dict[str, Any] | None
    architecture: str
    layers: int
    tied_embeddings: bool
    weight_bytes: int
    max_stages: int
    context_length: int
    default_max_tokens: int
    capacity: int
    kv_reserve_bytes: int
    slo_ttft_ms: int
    slo_tpot_ms: int | None
    keep_alive_s: int
    keep_alive_mode: str
    min_replicas: int
    rpm: int | None
    tpm: int | None
    parallel: int | None
    charge_cold_starts: bool
    warm_until_ms: int | None
    settings: dict[str, Any]
    created_at_ms: int
    updated_at_ms: int
    aliases: list[AliasDocument]
    pauses: int
    kept_s: float
    kept_in_plenty_s: float
    expected_ms: tuple[int, int] | None
    price: PriceDocument
    groups: list[ModelGroupDocument]


def model_document(
    session: Session, row: Model, keep_alives_ms: Callable[[Sequence[int], int], tuple[int, int]]
) -> ModelDocument:
    """A model as it stands now. `keep_alives_ms`: what pauses make of the keep-alive that was set, while memory is
    short and in plenty, all in ms; that is the orchestrator's to say."""
    pauses = models.pauses_ms(session, row.id) if row.keep_alive_mode == "learned" else ()
    kept_ms, kept_in_plenty_ms = keep_alives_ms(pauses, row.keep_alive_s * 1000)
    groups = session.scalars(
        select(Group)
        .where(Group.model_id == row.id, Group.state.not_in(models.ENDED_STATES))
        .order_by(Group.created_at_ms)
    ).all()
    return {
        "model_id": row.id,
        "name": row.name,
        "source": row.source,
        "enabled": row.enabled,
        "lane": row.lane,
        "provider": row.provider,
        "architecture": row.architecture,
        "layers": row.layers,
        "tied_embeddings": row.tied_embeddings,
        "weight_bytes": row.weight_bytes,
        "max_stages": row.max_stages,
        "context_length": row.context_length,
        "default_max_tokens": row.default_max_tokens,
        "capacity": row.capacity,
        "kv_reserve_bytes": row.kv_reserve_bytes,
        "slo_ttft_ms": row.slo_ttft_ms,
        "slo_tpot_ms": row.slo_tpot_ms,
        "keep_alive_s": row.keep_alive_s,
        "keep_alive_mode": row.keep_alive_mode,
        "min_replicas": row.min_replicas,
        "rpm": row.rpm,
        "tpm": row.tpm,
        "parallel": row.parallel,
        "charge_cold_starts": row.charge_cold_starts,
        "warm_until_ms": row.warm_until_ms,
        "settings": row.settings,
        "created_at_ms": row.created_at_ms,
        "updated_at_ms": row.updated_at_ms,
        "aliases": [alias_document(alias) for alias in aliases.list_aliases(session, row.id)],
        "pauses": len(pauses),
        "kept_s": kept_ms / 1000,
        "kept_in_plenty_s": kept_in_plenty_ms / 1000,
        "expected_ms": models.expected_ms(session, row),
        "price": price_document(prices.price_at(session, row.id, now_ms())),
        "groups": [
            {
                "group_id": group.id,
                "state": group.state,
                "reason": group.reason,
                "why": group.why,
                "stages": len(group.stages),
                "cold_start_id": group.cold_start_id,
                "created_at_ms": group.created_at_ms,
            }
            for group in groups
        ],
    }


def alias_document(row: Alias) -> AliasDocument:
    """An alias."""
    return {"name": row.name, "models": aliases.weights(row)}


def price_document(row: Price) -> PriceDocument:
    """A price."""
    return {
        "price_id": row.id,
        "from_ms": row.from_ms,
        "input_nusd": row.input_nusd,
        "cached_input_nusd": row.cached_input_nusd,
        "output_nusd": row.output_nusd,
        "request_nusd": row.request_nusd,
        "gpu_second_nusd": row.gpu_second_nusd,
        "input_usd_per_million": format_price_per_million(row.input_nusd),
        "cached_input_usd_per_million": format_price_per_million(row.cached_input_nusd),
        "output_usd_per_million": format_price_per_million(row.output_nusd),
        "request_usd": format_dollars(row.request_nusd),
        "gpu_second_usd": format_dollars(row.gpu_second_nusd),
    }
