"""Models: what is served, how, and for how much; their other names; registering, which takes minutes."""

from typing import Annotated, Any, Literal

from flask import current_app
from pydantic import Field
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.answers import ApiError
from admin_ui.api.authentication import current_actor
from admin_ui.api.management import Limit, Moment, Text, api
from admin_ui.api.operation import Body, Changes, change, given
from admin_ui.database import db
from admin_ui.permissions import Permission
from admin_ui.read.cluster import models_without_manifests
from admin_ui.registrations import MOST_AT_ONCE, Registration, Registrations
from admin_ui.views.registrations import registering
from orchestrator.keep_alive import keep_alives_ms
from registry.documents.models import ModelDocument, PriceDocument, model_document, price_document
from registry.errors import NotFoundError
from registry.models import Model
from registry.ops import models, prices
from registry.ops.prices import MAX_PRICE_NUSD
from registry.ops.registration import check_registration

TAG = "models"
Amount = Annotated[int, Field(ge=0, le=MAX_PRICE_NUSD)]


class Models(TypedDict):
    """All models by name."""

    models: list[ModelDocument]


class OneModel(TypedDict):
    """One model."""

    model: ModelDocument


class Prices(TypedDict):
    """A model's prices, the latest first."""

    model: str
    prices: list[PriceDocument]


class Deleted(TypedDict):
    """What was taken out of service."""

    model_id: str
    name: str


class DeletedModel(TypedDict):
    """What was taken out of service."""

    deleted: Deleted


class RegistrationDocument(TypedDict):
    """A model whose source is being read. `state`: reading, done or failed."""

    registration_id: str
    name: str
    source: str
    state: str
    started_at_ms: int
    read_bytes: int
    total_bytes: int
    error: str | None
    model_id: str | None


class OneRegistration(TypedDict):
    """One registration."""

    registration: RegistrationDocument


class Serving(Body):
    """How a model is served. `settings` are the engine's (docs/operations.md); `rpm`, `tpm` and `parallel` are over all
    tenants."""

    lane: Literal["direct", "litellm"] = "direct"
    slo_ttft_ms: Limit = 10_000
    slo_tpot_ms: Limit | None = None
    keep_alive_s: int = 300
    keep_alive_mode: Literal["learned", "fixed"] = "learned"
    min_replicas: int = 0
    rpm: Limit | None = None
    tpm: Limit | None = None
    parallel: Limit | None = None
    charge_cold_starts: bool = False
    capacity: Limit = 8
    default_max_tokens: Limit = 1024
    kv_reserve_bytes: Limit | None = Field(default=None, description="One context of full length unless given")
    settings: dict[Text, str | int | bool | None] = {}  # noqa: RUF012 - pydantic copies it


class Price(Body):
    """Nano-dollars a token and a request: 20 is $0.02 per million tokens."""

    input_nusd: Amount
    output_nusd: Amount
    cached_input_nusd: Amount | None = Field(default=None, description="As other input unless given")
    request_nusd: Amount = 0
    gpu_second_nusd: Amount = 0


class NewModel(Price, Serving):
    """A model to be registered. `source`: a directory on every node, or a URL (https://, s3://, gs://, az://)."""

    name: Text
    source: Text


class ModelChanges(Serving, Changes):
    """What is not given stays. `enabled: false` offers the model no longer, and stops it."""

    name: Text = ""
    enabled: bool = True


class NewPrice(Price):
    """`from_ms`: when it begins to hold; now unless given."""

    from_ms: Moment | None = None


class Warm(Body):
    """For how long at least one worker is kept up."""

    minutes: int = Field(default=30, ge=1, le=1440)


@api.operation("GET", "/models", Permission.SEE, "All models", tag=TAG, answer=Models)
def list_models() -> Models:
    return {"models": [model_document(db(), row, keep_alives_ms) for row in models_without_manifests(db())]}


@api.operation(
    "POST", "/models", Permission.CHANGE_MONEY, "Register a model: its source is read, which takes minutes", tag=TAG,
    body=NewModel, answer=OneRegistration, status=202, errors=(409, 503),
)  # fmt: skip
def register_model(body: NewModel) -> OneRegistration:
    return {"registration": registration_document(begin_registration(given(body)))}


@api.operation(
    "GET", "/registrations/<registration>", Permission.CHANGE_MONEY, "How far a registration has come", tag=TAG,
    answer=OneRegistration,
)  # fmt: skip
def show_registration(registration: str) -> OneRegistration:
    job = _registrations().get(registration)
    if job is None:
        raise NotFoundError("this registration is not known (any more); if the model is not in the list, begin anew")
    return {"registration": registration_document(job)}


@api.operation(
    "GET", "/models/<path:model>", Permission.SEE, "One model, by id, name or alias", tag=TAG, answer=OneModel
)
def show_model(model: str) -> OneModel:
    return shown(find_model(db(), model))


@api.operation(
    "PATCH", "/models/<path:model>", Permission.CHANGE_MODELS, "Change a model", tag=TAG,
    body=ModelChanges, answer=OneModel, errors=(409,),
)  # fmt: skip
def update_model(model: str, body: ModelChanges) -> OneModel:
    def do(session: Session, actor: str) -> Model:
        row = find_model(session, model)
        changes = given(body)
        enabled = changes.pop("enabled", None)
        if changes:
            models.update_model(session, actor, row.id, **changes)
        if enabled is not None:
            models.set_enabled(session, actor, row.id, enabled)
        return row

    return shown(change(do, reconcile=True))


@api.operation(
    "DELETE", "/models/<path:model>", Permission.CHANGE_MODELS, "Take a model out of service for ever, and stop it",
    tag=TAG, answer=DeletedModel,
)  # fmt: skip
def delete_model(model: str) -> DeletedModel:
    row = change(
        lambda session, actor: models.delete_model(session, actor, find_model(session, model).id, stop=True),
        reconcile=True,
    )
    return {"deleted": {"model_id": row.id, "name": row.name}}


@api.operation(
    "POST", "/models/<path:model>/warm", Permission.CHANGE_MODELS, "Start a worker and keep it up for a while", tag=TAG,
    body=Warm, answer=OneModel, errors=(409,),
)  # fmt: skip
def warm_model(model: str, body: Warm) -> OneModel:
    return shown(
        change(
            lambda session, actor: models.warm_now(session, actor, find_model(session, model).id, body.minutes),
            reconcile=True,
        )
    )


@api.operation(
    "POST", "/models/<path:model>/stop", Permission.CHANGE_MODELS, "Drain what runs now", tag=TAG,
    answer=OneModel, errors=(409,),
)  # fmt: skip
def stop_model(model: str) -> OneModel:
    return shown(
        change(
            lambda session, actor: models.stop_now(session, actor, find_model(session, model).id),
            reconcile=True,
        )
    )


@api.operation("GET", "/models/<path:model>/prices", Permission.SEE, "A model's prices", tag=TAG, answer=Prices)
def list_prices(model: str) -> Prices:
    row = find_model(db(), model)
    return {"model": row.name, "prices": [price_document(price) for price in prices.list_prices(db(), row.id)]}


@api.operation(
    "POST", "/models/<path:model>/prices", Permission.CHANGE_MONEY, "Set a price, from now or later on", tag=TAG,
    body=NewPrice, answer=Prices, status=201,
)  # fmt: skip
def set_price(model: str, body: NewPrice) -> Prices:
    change(lambda session, actor: prices.set_price(session, actor, find_model(session, model).id, **body.model_dump()))
    return list_prices(model)


def find_model(session: Session, text: str) -> Model:
    """The live model with this name, alias or id. Raises NotFoundError."""
    try:
        return models.resolve_name(session, text)
    except NotFoundError:
        if not text.startswith("mod_"):
            raise
        return models.get_model(session, text)


def begin_registration(values: dict[str, Any]) -> Registration:
    """Begins to read a model's source. Raises what `check_registration` raises, and ApiError 503 while others are."""
    check_registration(db(), **values)
    job = _registrations().begin(values["name"], values["source"], registering(values, current_actor()))
    if job is None:
        raise ApiError(
            503,
            f"{MOST_AT_ONCE} models are being read already. Send this again when one of them is done.",
            "busy",
            type_="server_error",
            headers={"Retry-After": "30"},
        )
    return job


def registration_document(job: Registration) -> RegistrationDocument:
    """A registration as it stands now."""
    return {
        "registration_id": job.id,
        "name": job.name,
        "source": job.source,
        "state": job.state,
        "started_at_ms": job.started_at_ms,
        "read_bytes": job.read_bytes,
        "total_bytes": job.total_bytes,
        "error": job.error,
        "model_id": job.model_id,
    }


def _registrations() -> Registrations:
    jobs: Registrations = current_app.extensions["hydrant_registrations"]
    return jobs


def shown(row: Model) -> OneModel:
    """A model as it stands now."""
    return {"model": model_document(db(), row, keep_alives_ms)}
