"""`hydrant policy`: what becomes of requests while the model that they ask for is cold."""

from typing import TYPE_CHECKING, Any

import click

from cli.command import Group, reporting
from cli.console import Console, table
from registry.ops.cold_policies import MODES

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@click.group(
    cls=Group,
    examples=[
        "hydrant policy set qwen3-8b --when-cold fallback --to gpt --after 5",
        "hydrant policy set qwen3-8b --tenant acme --when-cold reject",
        "hydrant policy list",
    ],
)
def policy() -> None:
    """Without a policy, requests for a cold model wait for it."""


@policy.command(
    "set",
    examples=[
        "hydrant policy set qwen3-8b --when-cold fallback --to gpt --after 5",
        "hydrant policy set qwen3-8b --tenant acme --when-cold wait      whatever holds for the others",
    ],
)
@click.argument("model")
@click.option("--tenant", help="For this tenant; for all that have none of their own unless given.")
@click.option("--when-cold", "mode", type=click.Choice(MODES), required=True, help="What becomes of its requests.")
@click.option("--to", "fallback", help="Of a fallback: the provider's model that answers instead, at its own price.")
@click.option(
    "--after", "after_s", type=int, default=0, show_default=True, help="Of a fallback: seconds in line first."
)
@reporting
def set_(console: Console, model: str, tenant: str | None, mode: str, fallback: str | None, after_s: int) -> None:
    """Set what becomes of requests for MODEL while no worker serves it. The model is started in any case."""
    from cli.workspace import Workspace
    from registry.ops import cold_policies, models, tenants

    def do(session: "Session", actor: str) -> None:
        cold_policies.set_policy(
            session,
            actor,
            models.resolve_name(session, model).id,
            tenant_id=None if tenant is None else tenants.find_tenant(session, tenant).id,
            mode=mode,
            after_s=after_s,
            fallback_model_id=None if fallback is None else models.resolve_name(session, fallback).id,
        )

    with Workspace(console) as here:
        here.change(do)
        _show(console, here, model)


@policy.command("remove", examples=["hydrant policy remove qwen3-8b --tenant acme"])
@click.argument("model")
@click.option("--tenant", help="Of this tenant; of all others unless given.")
@reporting
def remove(console: Console, model: str, tenant: str | None) -> None:
    """Take a policy away."""
    from cli.workspace import Workspace
    from registry.ops import cold_policies, models, tenants

    def do(session: "Session", actor: str) -> None:
        tenant_id = None if tenant is None else tenants.find_tenant(session, tenant).id
        cold_policies.remove_policy(session, actor, models.resolve_name(session, model).id, tenant_id=tenant_id)

    with Workspace(console) as here:
        here.change(do)
        _show(console, here, model)


@policy.command("list", examples=["hydrant policy list", "hydrant policy list qwen3-8b"])
@click.argument("model", required=False)
@reporting
def list_(console: Console, model: str | None) -> None:
    """All policies, or those of MODEL."""
    from cli.workspace import Workspace

    with Workspace(console) as here:
        _show(console, here, model)


def _show(console: Console, here: Any, model: str | None) -> None:
    from registry.documents.cold_policies import policy_document
    from registry.ops import cold_policies, models

    with here.read() as session:
        model_id = None if model is None else models.resolve_name(session, model).id
        documents = [policy_document(session, row) for row in cold_policies.list_policies(session, model_id)]
    with_own = {d["model"] for d in documents if d["tenant"]}
    rows = [
        (
            d["model"],
            d["tenant"] or ("all others" if d["model"] in with_own else "all tenants"),
            d["when_cold"],
            d["to"],
            d["after_s"],
        )
        for d in documents
    ]
    headings = ("MODEL", "TENANT", "WHEN COLD", "TO", "AFTER S")
    console.show({"policies": documents}, table(headings, rows) if rows else ["no policy: requests wait"])
