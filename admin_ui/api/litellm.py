"""The routes of LiteLLM's proxy that key-making scripts call, answered from Hydrant's own registry: a team is a tenant,
a `token` is a key's id, spend is in dollars (and exactly, in nano-dollars, beside it)."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Response
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.answers import bad_request, json_answer
from admin_ui.api.keys import pepper
from admin_ui.api.litellm_fields import (
    DeleteKeys,
    DeleteModel,
    GenerateKey,
    NewLiteLLMModel,
    UpdateKey,
    needs_tenant,
    nusd_per_token,
)
from admin_ui.api.management import Text
from admin_ui.api.models import begin_registration, find_model
from admin_ui.api.operation import Api, Query, change
from admin_ui.database import db, forget_reads
from admin_ui.permissions import Permission
from admin_ui.read.cluster import models_without_manifests
from registry.errors import ConflictError, NotFoundError
from registry.ids import now_ms
from registry.models import ApiKey, Model, Usage
from registry.ops import keys, models, prices, tenants
from registry.ops.money import NUSD_PER_USD
from registry.ops.usage import MAX_PAGE, UsageFilter, list_usage, usage_by_day, usage_totals

api = Api("litellm", "")
TAG = "LiteLLM-compatible"
WAITED_S = 10.0
"""How long /model/new waits for the source to be read before it answers that it goes on."""
DAY_MS = 86_400_000


class KeyInfo(TypedDict):
    """A key, in LiteLLM's words."""

    token: str
    key_name: str
    key_alias: str
    team_id: str
    user_id: None
    models: list[str]
    expires: str | None
    rpm_limit: int | None
    tpm_limit: int | None
    max_parallel_requests: int | None
    max_budget: None
    metadata: dict[str, Any]
    blocked: bool
    spend: float
    spend_nusd: int
    created_at: str


class GeneratedKey(KeyInfo):
    """A new key: `key` is the key itself, shown this once."""

    key: str
    token_id: str


class KeyInfoAnswer(TypedDict):
    """`key` as it was asked for."""

    key: str
    info: KeyInfo


class DeletedKeys(TypedDict):
    """What was ended, as it was named."""

    deleted_keys: list[str]


class ModelParamsAnswer(TypedDict):
    """Where its weights are, and what it costs in dollars a token."""

    model: str
    input_cost_per_token: float
    output_cost_per_token: float


class ModelInfoDetail(TypedDict):
    """What it is."""

    id: str
    db_model: bool
    mode: str
    max_tokens: int
    max_input_tokens: int
    input_cost_per_token: float
    output_cost_per_token: float


class ModelInfo(TypedDict):
    """A model, in LiteLLM's words."""

    model_name: str
    litellm_params: ModelParamsAnswer
    model_info: ModelInfoDetail


class StillReading(TypedDict):
    """The source is being read; the model is there when that is done."""

    message: str
    registration_id: str


class ModelInfos(TypedDict):
    """All models."""

    data: list[ModelInfo]


class Message(TypedDict):
    """What was done."""

    message: str


class SpendRow(TypedDict):
    """One attempt. `api_key` is the key's id."""

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
    """The spend of a day (UTC), by model; by key id besides, each a field of its own in `keys`."""

    startTime: str
    spend: float
    models: dict[str, float]
    users: dict[str, float]
    keys: dict[str, float]


class KeyQuery(Query):
    """The key itself, or better (addresses are logged) its `token`."""

    key: Text


class ModelQuery(Query):
    """One model, by `model_info.id`; all without."""

    litellm_model_id: Text | None = None


class SpendQuery(Query):
    """Days are UTC, `end_date` included. With both days and `summarize` (the default) sums by day, else attempts, at
    most 1000, the latest first."""

    start_date: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    end_date: str | None = Field(default=None, pattern=r"^\d{4}-\d{2}-\d{2}$")
    api_key: Text | None = None
    summarize: bool = True


@api.operation(
    "POST", "/key/generate", Permission.CHANGE_KEYS, "Make a key", tag=TAG,
    body=GenerateKey, answer=GeneratedKey, errors=(404, 409),
)  # fmt: skip
def litellm_generate_key(body: GenerateKey) -> GeneratedKey:
    body.refuse_unknown()
    if body.key_type not in (None, "default", "llm_api"):
        raise bad_request(
            "key_type: keys here call models only; hydrant token create makes management tokens", "key_type"
        )

    def do(session: Session, actor: str) -> tuple[ApiKey, str]:
        values = {"name": "unnamed", **body.changes()}
        tenant_id = _tenant_id(session, body.team_id)
        return keys.create_key(session, actor, pepper(), tenant_id=tenant_id, **values)

    row, plaintext = change(do)
    return {**_key_info(row), "key": plaintext, "token_id": row.id}


@api.operation(
    "GET", "/key/info", Permission.SEE, "What a key may do and has spent", tag=TAG,
    query=KeyQuery, answer=KeyInfoAnswer, errors=(404, 409),
)  # fmt: skip
def litellm_key_info(query: KeyQuery) -> KeyInfoAnswer:
    return {"key": query.key, "info": _key_info(keys.find_key(db(), query.key, pepper()))}


@api.operation(
    "POST", "/key/update", Permission.CHANGE_KEYS, "Change a key", tag=TAG,
    body=UpdateKey, answer=KeyInfo, errors=(404, 409),
)  # fmt: skip
def litellm_update_key(body: UpdateKey) -> KeyInfo:
    body.refuse_unknown()
    row = change(
        lambda session, actor: keys.update_key(
            session, actor, keys.find_key(session, body.key, pepper()).id, **body.changes()
        )
    )
    return _key_info(row)


@api.operation(
    "POST", "/key/delete", Permission.CHANGE_KEYS, "End keys for ever: all that are named, or none", tag=TAG,
    body=DeleteKeys, answer=DeletedKeys, errors=(404, 409),
)  # fmt: skip
def litellm_delete_keys(body: DeleteKeys) -> DeletedKeys:
    body.refuse_unknown()
    if not body.keys and not body.key_aliases:
        raise bad_request("name at least one key in keys or key_aliases", "keys")

    def do(session: Session, actor: str) -> None:
        for text in body.keys:
            keys.revoke_key(session, actor, keys.find_key(session, text, pepper()).id)
        for alias in body.key_aliases:
            keys.revoke_key(session, actor, _key_named(session, alias).id)

    change(do)
    return {"deleted_keys": [*body.keys, *body.key_aliases]}


@api.operation(
    "POST", "/model/new", Permission.CHANGE_MONEY, "Register a model", tag=TAG,
    body=NewLiteLLMModel, answer=ModelInfo, later=StillReading, errors=(409, 503),
)  # fmt: skip
def litellm_new_model(body: NewLiteLLMModel) -> ModelInfo | Response:
    body.refuse_unknown()
    body.litellm_params.refuse_unknown()
    info = body.model_info or {}
    params = body.litellm_params
    costs = {
        field: getattr(params, field) if getattr(params, field) is not None else info.get(field)
        for field in ("input_cost_per_token", "output_cost_per_token")
    }
    job = begin_registration(
        {
            "name": body.model_name,
            "source": params.model,
            "input_nusd": nusd_per_token("input_cost_per_token", costs["input_cost_per_token"]),
            "output_nusd": nusd_per_token("output_cost_per_token", costs["output_cost_per_token"]),
        }
    )
    job.ended.wait(WAITED_S)
    if job.state == "failed":
        raise bad_request(job.error or "the source cannot be served", "litellm_params.model")
    if job.model_id is None:
        where = f"/admin/v1/registrations/{job.id}"
        text = f"{body.model_name} is still being read; GET {where} tells how far that has come."
        document: StillReading = {"message": text, "registration_id": job.id}
        return json_answer(document, 202, {"Location": where})
    forget_reads()  # the model is younger than what this request has read
    return _model_info(models.get_model(db(), job.model_id))


@api.operation(
    "GET", "/model/info", Permission.SEE, "Models", tag=TAG, query=ModelQuery, answer=ModelInfos, errors=(404,)
)
def litellm_model_info(query: ModelQuery) -> ModelInfos:
    wanted = query.litellm_model_id
    found = models_without_manifests(db()) if wanted is None else [find_model(db(), wanted)]
    return {"data": [_model_info(row) for row in found]}


@api.operation(
    "GET", "/v1/model/info", Permission.SEE, "Models", tag=TAG, query=ModelQuery, answer=ModelInfos, errors=(404,)
)
def litellm_v1_model_info(query: ModelQuery) -> ModelInfos:
    return litellm_model_info(query)


@api.operation(
    "POST", "/model/delete", Permission.CHANGE_MODELS, "Take a model out of service for ever, and stop it", tag=TAG,
    body=DeleteModel, answer=Message, errors=(404,),
)  # fmt: skip
def litellm_delete_model(body: DeleteModel) -> Message:
    body.refuse_unknown()
    row = change(
        lambda session, actor: models.delete_model(session, actor, find_model(session, body.id).id, stop=True),
        reconcile=True,
    )
    return {"message": f"Model: {row.id} deleted successfully"}


@api.operation(
    "GET", "/spend/logs", Permission.SEE, "What was spent", tag=TAG,
    query=SpendQuery, answer=list[SpendRow] | list[SpendDay], errors=(404, 409),
)  # fmt: skip
def litellm_spend_logs(query: SpendQuery) -> list[SpendRow] | list[SpendDay]:
    first = _day("start_date", query.start_date)
    last = _day("end_date", query.end_date)
    wanted = UsageFilter(
        key_id=keys.find_key(db(), query.api_key, pepper()).id if query.api_key is not None else None,
        from_ms=first,
        until_ms=None if last is None else last + DAY_MS,
    )
    if first is None or last is None or not query.summarize:
        return [_spend_row(row) for row in list_usage(db(), wanted, limit=MAX_PAGE)]
    if last - first > 366 * DAY_MS:
        raise bad_request("at most a year at a time", "start_date")
    days: dict[int, SpendDay] = {}
    for day_ms in range(first, last + 1, DAY_MS):
        days[day_ms] = {"startTime": _iso(day_ms)[:10], "spend": 0.0, "models": {}, "users": {}, "keys": {}}
    for day_ms, key_id, model, nusd in usage_by_day(db(), wanted):
        day = days[day_ms]
        day["spend"] += _usd(nusd)
        day["models"][model] = day["models"].get(model, 0.0) + _usd(nusd)
        day["keys"][key_id] = day["keys"].get(key_id, 0.0) + _usd(nusd)
    return list(days.values())


def _tenant_id(session: Session, team_id: str | None) -> str:
    if team_id is not None:
        return tenants.find_tenant(session, team_id).id
    found = tenants.list_tenants(session, limit=2)
    if len(found) != 1:
        raise needs_tenant()
    return found[0].id


def _key_named(session: Session, alias: str) -> ApiKey:
    live = session.scalars(select(ApiKey).where(ApiKey.name == alias, ApiKey.revoked_at_ms.is_(None)).limit(2)).all()
    if not live:
        raise NotFoundError(f"there is no key named {alias!r}", "key_aliases")
    if len(live) > 1:
        raise ConflictError(f"several keys are named {alias!r}; name them by token in keys", "key_aliases")
    return live[0]


def _key_info(row: ApiKey) -> KeyInfo:
    spent = usage_totals(db(), UsageFilter(key_id=row.id)).cost_nusd
    return {
        "token": row.id,
        "key_name": f"hyd-{row.prefix}-...",
        "key_alias": row.name,
        "team_id": row.tenant_id,
        "user_id": None,
        "models": [] if row.models == ["*"] else list(row.models),
        "expires": None if row.expires_at_ms is None else _iso(row.expires_at_ms),
        "rpm_limit": row.rpm,
        "tpm_limit": row.tpm,
        "max_parallel_requests": row.parallel,
        "max_budget": None,
        "metadata": {},
        "blocked": row.revoked_at_ms is not None,
        "spend": _usd(spent),
        "spend_nusd": spent,
        "created_at": _iso(row.created_at_ms),
    }


def _model_info(row: Model) -> ModelInfo:
    price = prices.price_at(db(), row.id, now_ms())
    costs = {"input": _usd(price.input_nusd), "output": _usd(price.output_nusd)}
    return {
        "model_name": row.name,
        "litellm_params": {
            "model": row.source,
            "input_cost_per_token": costs["input"],
            "output_cost_per_token": costs["output"],
        },
        "model_info": {
            "id": row.id,
            "db_model": True,
            "mode": "embedding" if row.settings.get("embedding") else "chat",
            "max_tokens": row.context_length,
            "max_input_tokens": row.context_length,
            "input_cost_per_token": costs["input"],
            "output_cost_per_token": costs["output"],
        },
    }


def _spend_row(row: Usage) -> SpendRow:
    return {
        "request_id": row.request_id,
        "call_type": row.endpoint,
        "api_key": row.key_id,
        "team_id": row.tenant_id,
        "model": row.model_name,
        "spend": _usd(row.cost_nusd),
        "spend_nusd": row.cost_nusd,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "total_tokens": row.prompt_tokens + row.completion_tokens,
        "startTime": _iso(row.started_at_ms),
        "endTime": _iso(row.ended_at_ms),
        "completionStartTime": None if row.first_token_at_ms is None else _iso(row.first_token_at_ms),
        "status": "success" if row.outcome == "ok" else "failure",
    }


def _day(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        raise bad_request(f"{field} must be a day such as 2026-11-26", field) from None


def _iso(at_ms: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")


def _usd(nusd: int) -> float:
    return nusd / NUSD_PER_USD
