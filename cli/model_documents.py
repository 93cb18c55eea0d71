"""Models and prices as documents."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.keep_alive import keep_alive_ms
from registry.ids import now_ms
from registry.models import Alias, Group, Model, Price
from registry.ops import aliases, models, prices
from registry.ops.money import format_dollars, format_price_per_million


def model_document(session: Session, row: Model) -> dict[str, Any]:
    """A model without its manifest, which is as long as its list of tensors."""
    groups = session.scalars(
        select(Group)
        .where(Group.model_id == row.id, Group.state.not_in(models.ENDED_STATES))
        .order_by(Group.created_at_ms)
    ).all()
    pauses = models.pauses_ms(session, row.id) if row.keep_alive_mode == "learned" else ()
    copied: Sequence[str] = (
        "name", "source", "enabled", "lane", "provider", "architecture", "layers", "tied_embeddings", "weight_bytes",
        "max_stages", "context_length", "default_max_tokens", "capacity", "kv_reserve_bytes", "slo_ttft_ms",
        "slo_tpot_ms", "keep_alive_s", "keep_alive_mode", "min_replicas", "rpm", "tpm", "parallel",
        "charge_cold_starts", "warm_until_ms", "settings", "created_at_ms", "updated_at_ms",
    )  # fmt: skip
    return {
        "model_id": row.id,
        **{field: getattr(row, field) for field in copied},
        "aliases": [alias_document(alias) for alias in aliases.list_aliases(session, row.id)],
        "pauses": len(pauses),
        "kept_s": keep_alive_ms(pauses, row.keep_alive_s * 1000) / 1000,
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


def alias_document(row: Alias) -> dict[str, Any]:
    """An alias, with the weight of each model behind it."""
    return {"name": row.name, "models": aliases.weights(row)}


def price_document(row: Price) -> dict[str, Any]:
    """A price, in nano-dollars a token and in dollars per million."""
    per_token = ("input", "cached_input", "output")
    return {
        "price_id": row.id,
        "from_ms": row.from_ms,
        **{f"{kind}_nusd": getattr(row, f"{kind}_nusd") for kind in (*per_token, "request", "gpu_second")},
        **{f"{kind}_usd_per_million": format_price_per_million(getattr(row, f"{kind}_nusd")) for kind in per_token},
        "request_usd": format_dollars(row.request_nusd),
        "gpu_second_usd": format_dollars(row.gpu_second_nusd),
    }
