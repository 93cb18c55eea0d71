"""`hydrant model add-hosted` and `update-hosted`: models that a hosted provider serves."""

from typing import Any

import click

from cli.command import Command, reporting
from cli.console import Console
from cli.params import DOLLARS, NONE, PRICE


@click.command(
    "add-hosted",
    cls=Command,
    examples=[
        "hydrant model add-hosted gpt --provider-model openai/gpt-4.1-mini --key-env OPENAI_API_KEY \\",
        "    --input-price 0.4 --cached-input-price 0.1 --output-price 1.6",
        "hydrant policy set qwen3-8b --when-cold fallback --to gpt --after 5",
    ],
)
@click.argument("name")
@click.option("--provider-model", required=True, help="Provider, slash, its name of the model.")
@click.option("--key-env", required=True, help="The hosted process' variable that holds the provider's key.")
@click.option("--api-base", help="Another address than the provider's own; https.")
@click.option("--input-price", type=PRICE, required=True, help="Dollars per million tokens of prompt.")
@click.option("--output-price", type=PRICE, required=True, help="Dollars per million tokens of answer.")
@click.option("--cached-input-price", type=PRICE, help="For prompt tokens that the provider had cached.")
@click.option("--request-price", type=DOLLARS, default="0", help="Dollars for each request, besides its tokens.")
@click.option("--context-length", type=int, default=128_000, show_default=True, help="Bounds what a prompt may cost.")
@click.option("--default-max-tokens", type=int, default=4096, show_default=True, help="Where a request names none.")
@click.option("--embedding", is_flag=True, help="It makes embeddings instead of text.")
@reporting
def add_hosted(
    console: Console,
    name: str,
    provider_model: str,
    key_env: str,
    api_base: str | None,
    input_price: int,
    output_price: int,
    cached_input_price: int | None,
    request_price: int,
    context_length: int,
    default_max_tokens: int,
    embedding: bool,
) -> None:
    """Add a model that a hosted provider serves. Its key belongs into the environment of the hosted process."""
    from cli.workspace import Workspace
    from orchestrator.keep_alive import keep_alives_ms
    from registry.documents.models import model_document
    from registry.ops import models
    from registry.ops.hosted_models import register_hosted

    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: register_hosted(
                session,
                actor,
                name=name,
                provider_model=provider_model,
                key_env=key_env,
                api_base=api_base,
                input_nusd=input_price,
                output_nusd=output_price,
                cached_input_nusd=cached_input_price,
                request_nusd=request_price,
                context_length=context_length,
                default_max_tokens=default_max_tokens,
                embedding=embedding,
                allow_http=here.settings.provider_http,
            )
        )
        with here.read() as session:
            document = model_document(session, models.get_model(session, row.id), keep_alives_ms)
    console.show(
        {"model": document},
        [
            f"added {name} ({row.id}), served by {provider_model}",
            f"the hosted process needs {key_env} in its environment",
        ],
    )


@click.command(
    "update-hosted",
    cls=Command,
    examples=[
        "hydrant model update-hosted gpt --provider-model openai/gpt-4.1",
        "hydrant model update-hosted gpt --api-base none",
    ],
)
@click.argument("name")
@click.option("--provider-model", help="Provider, slash, its name of the model.")
@click.option("--key-env", help="The hosted process' variable that holds the provider's key.")
@click.option("--api-base", help="Another address than the provider's own; https; none: the provider's own.")
@click.option("--context-length", type=int, help="Bounds what a prompt may cost.")
@reporting
def update_hosted(console: Console, name: str, **given: Any) -> None:
    """Change where a hosted model is asked for. Its name: hydrant model update; its price: hydrant model price."""
    from cli.workspace import Workspace
    from orchestrator.keep_alive import keep_alives_ms
    from registry.documents.models import model_document
    from registry.ops import hosted_models, models

    changes = {field: value for field, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("nothing to change: give --provider-model, --key-env, --api-base or --context-length")
    if changes.get("api_base") == NONE:
        changes["api_base"] = None
    with Workspace(console) as here:
        allow_http = here.settings.provider_http
        row = here.change(
            lambda session, actor: hosted_models.update_hosted(
                session, actor, models.resolve_name(session, name).id, allow_http=allow_http, **changes
            )
        )
        with here.read() as session:
            document = model_document(session, models.get_model(session, row.id), keep_alives_ms)
    console.show({"model": document}, [f"changed {row.name}: {', '.join(sorted(changes))}"])
