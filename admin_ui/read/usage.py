"""Usage over time: sums per hour or day of the reader's calendar. Totals and lists come from registry.ops.usage."""

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, tzinfo

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from admin_ui.zones import day_of, day_start_ms, days_between
from registry.models import Usage
from registry.ops.usage import UsageFilter

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SLICE_MS = 900_000
"""SQL sums over quarters of an hour, UTC: every zone's hours and days are made of whole ones."""
HOURLY_UP_TO_MS = 2 * DAY_MS


@dataclass(frozen=True, slots=True)
class Bucket:
    """One column of the chart: an hour or a day of the reader's calendar. `cost_nusd` in nano-dollars."""

    label: str
    short: str
    tokens: int
    cost_nusd: int
    requests: int


def usage_over_time(session: Session, wanted: UsageFilter, zone: tzinfo) -> list[Bucket]:
    """Sums per hour (for at most two days) or per day in `zone`, with empty ones between.

    `wanted` must have both ends; what it leaves out of the first and last bucket is not in their sums.
    """
    if wanted.from_ms is None or wanted.until_ms is None:
        raise ValueError("usage over time needs a beginning and an end")
    hourly = wanted.until_ms - wanted.from_ms <= HOURLY_UP_TO_MS
    starts = _starts(wanted.from_ms, wanted.until_ms, zone, hourly=hourly)
    sums = [[0, 0, 0] for _start in starts]
    slot = Usage.ended_at_ms // SLICE_MS
    tokens = func.sum(Usage.prompt_tokens + Usage.completion_tokens)
    query = select(slot, tokens, func.sum(Usage.cost_nusd), func.count()).group_by(slot)
    query = query.where(Usage.ended_at_ms >= wanted.from_ms, Usage.ended_at_ms < wanted.until_ms)
    if wanted.tenant_id is not None:
        query = query.where(Usage.tenant_id == wanted.tenant_id)
    if wanted.model_id is not None:
        query = query.where(Usage.model_id == wanted.model_id)
    for number, *amounts in session.execute(query):
        # A slice that the filter cuts begins before the first bucket does.
        column = sums[max(bisect_right(starts, int(number) * SLICE_MS) - 1, 0)]
        for i, amount in enumerate(amounts):
            column[i] += int(amount)
    return [Bucket(*_labels(start, zone, hourly=hourly), *column) for start, column in zip(starts, sums, strict=True)]


def models_used(session: Session) -> dict[str, str]:
    """Id -> name of every model that was ever used, deleted ones too, by name."""
    query = select(Usage.model_id, func.max(Usage.model_name)).group_by(Usage.model_id)
    return dict(sorted(((model_id, name) for model_id, name in session.execute(query)), key=lambda row: row[1]))


def _starts(from_ms: int, until_ms: int, zone: tzinfo, *, hourly: bool) -> list[int]:
    if hourly:
        return list(range(from_ms // HOUR_MS * HOUR_MS, until_ms, HOUR_MS))
    return [day_start_ms(day, zone) for day in days_between(day_of(from_ms, zone), day_of(until_ms - 1, zone))]


def _labels(start_ms: int, zone: tzinfo, *, hourly: bool) -> tuple[str, str]:
    """In full, and short enough to stand under a column."""
    start = datetime.fromtimestamp(start_ms / 1000, zone)
    if hourly:
        return start.strftime("%a %d %b %H:%M"), start.strftime("%H:%M")
    return start.strftime("%a %d %b %Y"), start.strftime("%d %b")
