"""Models that a hosted provider serves. They are listed, priced, named, disabled and deleted as all others are."""

from flask import current_app
from pydantic import Field
from sqlalchemy.orm import Session

from admin_ui.api.management import Limit, Text, api
from admin_ui.api.models import Amount, OneModel, find_model, shown
from admin_ui.api.operation import Body, Changes, change, given
from admin_ui.permissions import Permission
from registry.models import Model
from registry.ops.hosted_models import register_hosted, update_hosted

TAG = "models"


class NewHostedModel(Body):
    """`provider_model`: provider, slash, its name of the model. `key_env`: which variable of the hosted process holds
    the provider's key, such as OPENAI_API_KEY; the key itself is never sent here. Prices: nano-dollars a token and a
    request."""

    name: Text
    provider_model: Text
    key_env: Text
    api_base: Text | None = Field(default=None, description="Another address than the provider's own; https")
    input_nusd: Amount
    output_nusd: Amount
    cached_input_nusd: Amount | None = Field(default=None, description="As other input unless given")
    request_nusd: Amount = 0
    context_length: Limit = 128_000
    default_max_tokens: Limit = 4096
    embedding: bool = Field(default=False, description="It makes embeddings instead of text")


class HostedChanges(Changes):
    """What is not given stays; null as `api_base` is the provider's own address."""

    provider_model: Text = ""
    key_env: Text = ""
    api_base: Text | None = None
    context_length: Limit = 128_000


@api.operation(
    "POST", "/hosted-models", Permission.CHANGE_MONEY, "Add a model that a hosted provider serves", tag=TAG,
    body=NewHostedModel, answer=OneModel, status=201, errors=(409,),
)  # fmt: skip
def register_hosted_model(body: NewHostedModel) -> OneModel:
    row = change(
        lambda session, actor: register_hosted(session, actor, allow_http=allow_http(), **body.model_dump()),
    )
    return shown(row)


@api.operation(
    "PATCH", "/hosted-models/<path:model>", Permission.CHANGE_MONEY, "Change where a hosted model is asked for",
    tag=TAG, body=HostedChanges, answer=OneModel, errors=(409,),
)  # fmt: skip
def update_hosted_model(model: str, body: HostedChanges) -> OneModel:
    def do(session: Session, actor: str) -> Model:
        model_id = find_model(session, model).id
        return update_hosted(session, actor, model_id, allow_http=allow_http(), **given(body))

    return shown(change(do))


def allow_http() -> bool:
    """Whether a provider's address may be plain HTTP to this machine (HYDRANT_PROVIDER_HTTP)."""
    allowed: bool = current_app.config["PROVIDER_HTTP"]
    return allowed
