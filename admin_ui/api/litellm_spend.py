"""LiteLLM's route for what was spent: on attempts, and on cold starts that a tenant is charged for having waited."""

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import Field
from typing_extensions import TypedDict

from admin_ui.api.answers import bad_request
from admin_ui.api.keys import pepper
from admin_ui.api.litellm import TAG, api, iso, usd
from admin_ui.api.management import Text
from admin_ui.api.operation import Query
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.models import ColdStartShare, Usage
from registry.ops import keys
from registry.ops.cost_queries import charges_by_day, list_charges
from registry.ops.usage import MAX_PAGE, UsageFilter, list_usage, usage_by_day

DAY_MS = 86_400_000


class SpendRow(TypedDict):
    """One attempt; `api_key` is the key's id. Or, with the `call_type` cold_start, a share of a start (`request_id`)
    that its tenant was charged, which is no key's: `api_key` is empty."""

    request_id: str
    call_type: str
    api_key: str
    team_id: str
    model: str
    spend: float
    spend_nusd: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    startTime: str
    endTime: str
    completionStartTime: str | None
    status: str


class SpendDay(TypedDict):
    """The spend of a day (UTC), by model; by key id besides, each a field of its own in `keys`. Charges for cold starts
    are no key's: they are in `spend` and `models` alone."""

    startTime: str
    spend: float
    models: dict[str, float]
    users: dict[str, float]
    keys: dict[str, float]


class SpendQuery(Query):
    """Days are UTC, `end_date` included. With both days and `summarize` (the default) sums by day, else attempts, at
    most 1000, the latest first."""

    start_date: str | None = Field(default=None, json_schema_extra={"format": "date"})
    end_date: str | None = Field(default=None, json_schema_extra={"format": "date"})
    api_key: Text | None = None
    user_id: Text | None = None
    summarize: bool = True


@api.operation(
    "GET", "/spend/logs", Permission.SEE, "What was spent", tag=TAG,
    query=SpendQuery, answer=list[SpendRow] | list[SpendDay], errors=(404, 409),
)  # fmt: skip
def litellm_spend_logs(query: SpendQuery) -> list[SpendRow] | list[SpendDay]:
    first = _day("start_date", query.start_date)
    last = _day("end_date", query.end_date)
    wanted = UsageFilter(
        key_id=keys.find_key(db(), query.api_key, pepper()).id if query.api_key is not None else None,
        user_id=query.user_id,
        from_ms=first,
        until_ms=None if last is None else last + DAY_MS,
    )
    with_charges = wanted.key_id is None and wanted.user_id is None
    if first is None or last is None or not query.summarize:
        rows = [_spend_row(row) for row in list_usage(db(), wanted, limit=MAX_PAGE)]
        if with_charges:
            rows += [_charge_row(share, model) for share, model in list_charges(db(), wanted, limit=MAX_PAGE)]
            rows.sort(key=lambda row: row["endTime"], reverse=True)
        return rows[:MAX_PAGE]
    if last - first > 366 * DAY_MS:
        raise bad_request("at most a year at a time", "start_date")
    days = {day_ms: _Day() for day_ms in range(first, last + 1, DAY_MS)}
    for day_ms, key_id, model, nusd in usage_by_day(db(), wanted):
        days[day_ms].models[model] += nusd
        days[day_ms].keys[key_id] += nusd
    if with_charges:
        for day_ms, model, nusd in charges_by_day(db(), wanted):
            days[day_ms].models[model] += nusd
    return [day.told(day_ms) for day_ms, day in days.items()]


@dataclass
class _Day:
    """Sums in nano-dollars: those of dollars would gather what floats leave behind."""

    models: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)

    def told(self, day_ms: int) -> SpendDay:
        """The day in LiteLLM's words."""
        return {
            "startTime": iso(day_ms)[:10],
            "spend": usd(self.models.total()),
            "models": {name: usd(nusd) for name, nusd in self.models.items()},
            "users": {},
            "keys": {name: usd(nusd) for name, nusd in self.keys.items()},
        }


def _spend_row(row: Usage) -> SpendRow:
    return {
        "request_id": row.request_id,
        "call_type": row.endpoint,
        "api_key": row.key_id,
        "team_id": row.tenant_id,
        "model": row.model_name,
        "spend": usd(row.cost_nusd),
        "spend_nusd": row.cost_nusd,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "total_tokens": row.prompt_tokens + row.completion_tokens,
        "startTime": iso(row.started_at_ms),
        "endTime": iso(row.ended_at_ms),
        "completionStartTime": None if row.first_token_at_ms is None else iso(row.first_token_at_ms),
        "status": "success" if row.outcome == "ok" else "failure",
    }


def _charge_row(share: ColdStartShare, model: str) -> SpendRow:
    at = iso(share.at_ms)
    return {
        "request_id": share.cold_start_id,
        "call_type": "cold_start",
        "api_key": "",
        "team_id": share.tenant_id,
        "model": model,
        "spend": usd(share.cost_nusd),
        "spend_nusd": share.cost_nusd,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "total_tokens": 0,
        "startTime": at,
        "endTime": at,
        "completionStartTime": None,
        "status": "success",
    }


def _day(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        raise bad_request(f"{name} must be a date, YYYY-MM-DD, such as 2026-11-26", name) from None
