"""Prices: rows that are never changed, each in force from a moment until the next one of its model."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.errors import InvalidError, NotFoundError
from registry.ids import new_id, now_ms
from registry.models import Model, Price
from registry.ops import audit, checks
from registry.ops.money import usd

# $1000 a token: a million tokens at this price are the largest amount that the ledger takes.
MAX_PRICE_NUSD = 10**12
# $10 a GPU-second: however long a start takes on however many devices, its cost stays an amount.
MAX_GPU_SECOND_NUSD = 10**10
REQUIRED = ("input_nusd", "output_nusd")
AMOUNTS = (*REQUIRED, "cached_input_nusd", "request_nusd", "gpu_second_nusd")


def set_price(
    session: Session,
    actor: str,
    model_id: str,
    *,
    input_nusd: int,
    output_nusd: int,
    cached_input_nusd: int | None = None,
    request_nusd: int = 0,
    gpu_second_nusd: int = 0,
    from_ms: int | None = None,
) -> Price:
    """A new price in nano-dollars per token, request and GPU-second, from now or from a later moment on.

    Requests under way are billed at the price they were admitted with, a cold start at the price it began with.
    Raises InvalidError for a moment in the past.
    """
    model = session.get(Model, model_id)
    if model is None or model.deleted_at_ms is not None:
        raise NotFoundError(f"there is no model {model_id}", "model_id")
    created_at_ms = now_ms()
    if from_ms is not None and checks.moment("from_ms", from_ms) < created_at_ms:
        raise InvalidError("from_ms lies in the past; a price holds from now or later", "from_ms")
    price = add_price(
        session,
        model_id,
        input_nusd=input_nusd,
        cached_input_nusd=input_nusd if cached_input_nusd is None else cached_input_nusd,
        output_nusd=output_nusd,
        request_nusd=request_nusd,
        gpu_second_nusd=gpu_second_nusd,
        from_ms=created_at_ms if from_ms is None else from_ms,
        created_at_ms=created_at_ms,
    )
    audit.record(
        session,
        actor,
        "price.set",
        model_id,
        price_id=price.id,
        input_nusd=price.input_nusd,
        cached_input_nusd=price.cached_input_nusd,
        output_nusd=price.output_nusd,
        request_nusd=price.request_nusd,
        gpu_second_nusd=price.gpu_second_nusd,
        from_ms=price.from_ms,
    )
    return price


def add_price(
    session: Session,
    model_id: str,
    *,
    input_nusd: int,
    cached_input_nusd: int,
    output_nusd: int,
    request_nusd: int,
    gpu_second_nusd: int,
    from_ms: int,
    created_at_ms: int,
) -> Price:
    """Store a checked price row; its audit is the caller's."""
    amounts = {
        "input_nusd": input_nusd,
        "cached_input_nusd": cached_input_nusd,
        "output_nusd": output_nusd,
        "request_nusd": request_nusd,
        "gpu_second_nusd": gpu_second_nusd,
    }
    for field, value in amounts.items():
        check_amount(field, value)
    price = Price(id=new_id("pri"), model_id=model_id, from_ms=from_ms, created_at_ms=created_at_ms, **amounts)
    session.add(price)
    session.flush()
    return price


def check_amount(field: str, value: object) -> int:
    """`value`, if a price may be so many nano-dollars. Raises InvalidError naming the field."""
    most = MAX_GPU_SECOND_NUSD if field == "gpu_second_nusd" else MAX_PRICE_NUSD
    if isinstance(value, int) and not 0 <= value <= most:
        raise InvalidError(f"{field} must be from {usd(0)} to {usd(most)}", field)
    return checks.integer(field, value, high=most)


def list_prices(session: Session, model_id: str) -> Sequence[Price]:
    """All prices of a model, the latest first; those still to come are at the top."""
    query = select(Price).where(Price.model_id == model_id)
    return session.scalars(query.order_by(Price.from_ms.desc(), Price.id.desc())).all()


def price_at(session: Session, model_id: str, at_ms: int) -> Price:
    """The price in force at a moment: the latest that began by then, of equals the one set last."""
    query = select(Price).where(Price.model_id == model_id, Price.from_ms <= at_ms)
    price = session.scalar(query.order_by(Price.from_ms.desc(), Price.created_at_ms.desc(), Price.id.desc()).limit(1))
    if price is None:
        raise NotFoundError(f"model {model_id} has no price at that time; set one", "price")
    return price
