"""Models that a hosted provider serves: no weights, no workers, only a name, a price and where to ask."""

from typing import Any

from sqlalchemy.orm import Session

from registry.errors import ConflictError
from registry.ids import new_id, now_ms
from registry.models import Model
from registry.ops import audit, checks, models, prices
from registry.ops.model_fields import checked
from registry.providers import check_provider

LARGEST_CONTEXT = 100_000_000


def register_hosted(
    session: Session,
    actor: str,
    *,
    name: str,
    provider_model: str,
    key_env: str,
    input_nusd: int,
    output_nusd: int,
    api_base: str | None = None,
    cached_input_nusd: int | None = None,
    request_nusd: int = 0,
    context_length: int = 128_000,
    default_max_tokens: int = 4096,
    embedding: bool = False,
    allow_http: bool = False,
) -> Model:
    """Add a model of a provider, enabled and priced from now (nano-dollars a token, and a request).

    `provider_model`, `key_env` and `api_base`: see registry.providers. `context_length` bounds what a request's prompt
    may cost; `default_max_tokens` is asked for where a client names none. `embedding`: it makes vectors and no text.
    `allow_http`: HYDRANT_PROVIDER_HTTP.
    """
    provider = check_provider(provider_model, key_env, api_base, embedding=embedding, allow_http=allow_http)
    checks.model_name("name", name)
    models.refuse_taken(session, name)
    at_ms = now_ms()
    model = Model(
        id=new_id("mod"),
        name=name,
        source="",
        enabled=True,
        lane="hosted",
        provider=dict(provider),
        architecture="",
        layers=0,
        tied_embeddings=False,
        weight_bytes=0,
        max_stages=0,
        manifest={},
        settings={"embedding": True} if embedding else {},
        context_length=checks.integer("context_length", context_length, low=1, high=LARGEST_CONTEXT),
        default_max_tokens=checked("default_max_tokens", default_max_tokens),
        kv_reserve_bytes=0,
        profile={},
        created_at_ms=at_ms,
        updated_at_ms=at_ms,
    )
    models.store(session, model, {})
    prices.add_price(
        session,
        model.id,
        input_nusd=input_nusd,
        cached_input_nusd=input_nusd if cached_input_nusd is None else cached_input_nusd,
        output_nusd=output_nusd,
        request_nusd=request_nusd,
        gpu_second_nusd=0,
        from_ms=at_ms,
        created_at_ms=at_ms,
    )
    described = {
        "context_length": model.context_length,
        "default_max_tokens": model.default_max_tokens,
        "embedding": embedding,
    }
    audit.record(session, actor, "model.register", model.id, name=name, lane="hosted", provider=provider, **described)
    return model


def update_hosted(
    session: Session,
    actor: str,
    model_id: str,
    *,
    allow_http: bool = False,
    context_length: int | None = None,
    **changes: Any,
) -> Model:
    """Change any of provider_model, key_env, api_base ("" is the provider's own address) and `context_length`.

    Name, price and default_max_tokens are changed as those of any other model; whether it embeds is for ever.
    """
    model = models.get_model(session, model_id)
    if model.provider is None:
        raise ConflictError(f"{model.name} runs on these servers; no provider serves it", "lane")
    present = {"provider_model": model.provider["model"], **model.provider} | changes
    provider = check_provider(
        present["provider_model"],
        present["key_env"],
        present["api_base"],
        embedding=bool(model.settings.get("embedding")),
        allow_http=allow_http,
    )
    fresh: dict[str, Any] = {"provider": dict(provider), "updated_at_ms": now_ms()}
    if context_length is not None:
        fresh["context_length"] = checks.integer("context_length", context_length, low=1, high=LARGEST_CONTEXT)
    models.store(session, model, fresh)
    audit.record(session, actor, "model.update", model.id, provider=provider, context_length=model.context_length)
    return model
