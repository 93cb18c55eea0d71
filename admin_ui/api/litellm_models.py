"""LiteLLM's routes for models: with weights of their own, or of a hosted provider."""

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Response
from typing_extensions import TypedDict

from admin_ui.api.answers import bad_request, json_answer
from admin_ui.api.hosted_models import allow_http
from admin_ui.api.litellm import TAG, api, usd
from admin_ui.api.litellm_fields import DeleteModel, ModelParams, NewLiteLLMModel, nusd_per_token
from admin_ui.api.management import Text
from admin_ui.api.models import begin_registration, find_model
from admin_ui.api.operation import Query, change
from admin_ui.database import db, forget_reads
from admin_ui.permissions import Permission
from admin_ui.read.cluster import models_without_manifests
from registry.errors import ConflictError, RegistryError
from registry.ids import now_ms
from registry.models import Model
from registry.ops import models, prices
from registry.ops.hosted_models import register_hosted

WAITED_S = 10.0
"""How long /model/new waits for the source to be read before it answers that it goes on."""
FROM_ENVIRONMENT = "os.environ/"


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


class ModelQuery(Query):
    """One model, by `model_info.id`; all without."""

    litellm_model_id: Text | None = None


@api.operation(
    "POST", "/model/new", Permission.CHANGE_MONEY, "Register a model", tag=TAG,
    body=NewLiteLLMModel, answer=ModelInfo, later=StillReading, errors=(409, 503),
)  # fmt: skip
def litellm_new_model(body: NewLiteLLMModel) -> ModelInfo | Response:
    body.refuse_unknown()
    body.litellm_params.refuse_unknown()
    params = body.litellm_params
    if not _is_hosted(params.model):
        for field in ("api_key", "api_base"):
            if getattr(params, field):
                raise bad_request(f"{field} is of a provider's model only; leave it out", field)
    cached = body.cost("cache_read_input_token_cost")
    costs = {
        "input_nusd": nusd_per_token("input_cost_per_token", body.cost("input_cost_per_token")),
        "output_nusd": nusd_per_token("output_cost_per_token", body.cost("output_cost_per_token")),
        "cached_input_nusd": None if cached is None else nusd_per_token("cache_read_input_token_cost", cached),
    }
    if _is_hosted(params.model):
        return _new_hosted(body, costs)
    with _named():
        job = begin_registration({"name": body.model_name, "source": params.model, **costs})
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


def _is_hosted(model: str) -> bool:
    """Whether it is a provider's name of a model: neither a directory nor a URL."""
    return not model.startswith("/") and "://" not in model


def _new_hosted(body: NewLiteLLMModel, costs: dict[str, int | None]) -> ModelInfo:
    params = body.litellm_params
    info = body.model_info or {}
    most = info.get("max_input_tokens")
    values = {
        **costs,
        **({} if most is None else {"context_length": most}),
        "embedding": info.get("mode") == "embedding",
    }
    key_env = _key_env(params)
    with _named():
        row = change(
            lambda session, actor: register_hosted(
                session,
                actor,
                name=body.model_name,
                provider_model=params.model,
                key_env=key_env,
                api_base=params.api_base,
                allow_http=allow_http(),
                **values,
            )
        )
    return _model_info(row)


def _key_env(params: ModelParams) -> str:
    key = params.api_key or ""
    if not key:
        raise bad_request(
            "api_key is needed: os.environ/NAME, where NAME is the hosted process' variable that holds the provider's "
            "key, such as os.environ/OPENAI_API_KEY",
            "api_key",
        )
    if not key.startswith(FROM_ENVIRONMENT):
        raise bad_request(
            "api_key is a key itself, and Hydrant stores no provider's key: put it into the environment of the hosted "
            "process (docs/operations.md) and name its variable here, such as os.environ/OPENAI_API_KEY. Since it was "
            "sent, consider replacing it at the provider",
            "api_key",
        )
    return key.removeprefix(FROM_ENVIRONMENT)


@contextmanager
def _named() -> Iterator[None]:
    """What the registry refuses, in LiteLLM's field names."""
    try:
        yield
    except ConflictError as error:
        if error.field == "name":
            raise ConflictError(
                f"{error.message}. LiteLLM would balance requests over both; here a name is one model's. Give this one "
                "a name of its own, and let both share a third: PUT /admin/v1/aliases/{alias} with their weights",
                "model_name",
            ) from None
        raise
    except RegistryError as error:
        error.field = _FIELDS.get(error.field or "", error.field)
        raise


_FIELDS = {
    "name": "model_name",
    "source": "litellm_params.model",
    "provider_model": "litellm_params.model",
    "key_env": "api_key",
    "context_length": "model_info.max_input_tokens",
}


def _model_info(row: Model) -> ModelInfo:
    price = prices.price_at(db(), row.id, now_ms())
    costs = {"input": usd(price.input_nusd), "output": usd(price.output_nusd)}
    return {
        "model_name": row.name,
        "litellm_params": {
            "model": row.source if row.provider is None else row.provider["model"],
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
