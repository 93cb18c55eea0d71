"""`hydrant key`: API keys. A key is printed once, when it is made, and stored nowhere."""

from typing import TYPE_CHECKING, Any

import click

from cli.command import Group, reporting
from cli.console import Console, table
from cli.params import DURATION, LIMIT, MOMENT, NONE, or_none
from cli.units import moment
from registry.ids import now_ms

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.models import ApiKey


@click.group(
    cls=Group,
    examples=[
        "hydrant key create acme --name laptop",
        "hydrant key rotate 4f7q2z8k --overlap 24h",
        "hydrant key revoke 4f7q2z8k          the part of the key after hyd-",
    ],
)
def key() -> None:
    """API keys of tenants. A key is named by its id (key_...) or by its public prefix, the part after hyd-."""


@key.command(
    examples=[
        "hydrant key create acme --name laptop",
        "hydrant key create acme --name ci --model qwen3-8b --expires-in 30d --rpm 60",
        "hydrant key create acme --name bot --default temperature=0.2 --ceiling max_tokens=512",
        "export OPENAI_API_KEY=$(hydrant key create acme --name shell --json | jq -r .plaintext)",
    ]
)
@click.argument("tenant")
@click.option("--name", required=True, help="What it is for; people tell keys apart by it.")
@click.option("--model", "models", multiple=True, help="A model it may use; repeat for more. Default: all models.")
@click.option("--expires-at", type=MOMENT, help="When it ends, for example 2027-01-31 (UTC).")
@click.option("--expires-in", type=DURATION, help="When it ends, from now: 24h, 30d.")
@click.option("--rpm", type=LIMIT, help="Requests a minute with this key, or none.")
@click.option("--tpm", type=LIMIT, help="Tokens a minute with this key, or none.")
@click.option("--parallel", type=LIMIT, help="Requests at once with this key, or none.")
@click.option("--sse-ping/--no-sse-ping", default=True, help="Keep held streams awake with SSE comments.")
@click.option(
    "--default", "defaults", multiple=True, metavar="NAME=VALUE", help="What a request that does not say gets."
)
@click.option("--ceiling", "ceilings", multiple=True, metavar="NAME=VALUE", help="The most that a request may ask for.")
@reporting
def create(
    console: Console,
    tenant: str,
    name: str,
    models: tuple[str, ...],
    expires_at: int | None,
    expires_in: int | None,
    sse_ping: bool,
    defaults: tuple[str, ...],
    ceilings: tuple[str, ...],
    **limits: int | str | None,
) -> None:
    """Make a key for TENANT and print it. This is the only time that it can be seen.

    Defaults: max_tokens, n, temperature, top_p, presence_penalty, frequency_penalty, seed, reasoning_effort. Ceilings:
    max_tokens (a request for more gets as much), n, temperature, top_p (a request for more is refused).
    """
    from cli.workspace import Workspace
    from registry.key_parameters import parse_assignments
    from registry.ops import keys, tenants

    if expires_at is not None and expires_in is not None:
        raise click.UsageError("give --expires-at or --expires-in, not both")
    given: dict[str, Any] = {field: or_none(value) for field, value in limits.items() if value is not None}
    ends = now_ms() + expires_in if expires_in is not None else expires_at
    with Workspace(console) as here:
        pepper = here.settings.key_pepper.get_secret_value()
        row, plaintext = here.change(
            lambda session, actor: keys.create_key(
                session,
                actor,
                pepper,
                tenant_id=tenants.find_tenant(session, tenant).id,
                name=name,
                models=models or ("*",),
                expires_at_ms=ends,
                sse_ping=sse_ping,
                defaults=parse_assignments(defaults, "defaults"),
                ceilings=parse_assignments(ceilings, "ceilings"),
                **given,
            )
        )
    _show_once(console, row, plaintext)


@key.command("list", examples=["hydrant key list", "hydrant key list --tenant acme --all"])
@click.option("--tenant", help="Only this tenant's.")
@click.option("--all", "everything", is_flag=True, help="Revoked and expired ones too.")
@reporting
def list_(console: Console, tenant: str | None, everything: bool) -> None:
    """Keys, the newest first: what they may do and when they end; never the keys themselves."""
    from cli.workspace import Workspace
    from registry.documents.access import key_document
    from registry.ops import keys, tenants

    with Workspace(console) as here, here.read() as session:
        names = {row.id: row.name for row in tenants.list_tenants(session)}
        tenant_id = tenants.find_tenant(session, tenant).id if tenant is not None else None
        found = [key_document(row) for row in keys.list_keys(session, tenant_id)]
    shown = [d for d in found if everything or d["state"] == "live"]
    rows = [
        (
            d["key_id"],
            d["prefix"],
            names[d["tenant_id"]],
            d["name"],
            " ".join(d["models"]) or "none",
            d["state"],
            moment(d["expires_at_ms"]),
        )
        for d in shown
    ]
    lines = table(("ID", "PREFIX", "TENANT", "NAME", "MODELS", "STATE", "EXPIRES (UTC)"), rows)
    console.show({"keys": shown}, lines if rows else ["no key; make one: hydrant key create TENANT --name NAME"])


@key.command(
    examples=[
        "hydrant key update 4f7q2z8k --rpm 120 --model qwen3-8b",
        "hydrant key update 4f7q2z8k --ceiling max_tokens=512 --default none",
        "hydrant key update 4f7q2z8k --models-all --no-end",
    ]
)
@click.argument("key")
@click.option("--name", help="A new name.")
@click.option("--model", "models", multiple=True, help="A model it may use from now on; repeat for more.")
@click.option("--models-all", is_flag=True, help="All models, also future ones.")
@click.option("--expires-at", type=MOMENT, help="When it ends, for example 2027-01-31 (UTC).")
@click.option("--expires-in", type=DURATION, help="When it ends, from now: 24h, 30d.")
@click.option("--no-end", is_flag=True, help="It ends no more by itself.")
@click.option("--rpm", type=LIMIT, help="Requests a minute with this key, or none.")
@click.option("--tpm", type=LIMIT, help="Tokens a minute with this key, or none.")
@click.option("--parallel", type=LIMIT, help="Requests at once with this key, or none.")
@click.option("--sse-ping/--no-sse-ping", default=None, help="Keep held streams awake with SSE comments.")
@click.option("--default", "defaults", multiple=True, metavar="NAME=VALUE", help="In place of all it has, or none.")
@click.option("--ceiling", "ceilings", multiple=True, metavar="NAME=VALUE", help="In place of all it has, or none.")
@reporting
def update(
    console: Console,
    key: str,
    name: str | None,
    models: tuple[str, ...],
    models_all: bool,
    expires_at: int | None,
    expires_in: int | None,
    no_end: bool,
    sse_ping: bool | None,
    defaults: tuple[str, ...],
    ceilings: tuple[str, ...],
    **limits: int | str | None,
) -> None:
    """Change what a key may do. What is not given stays; `none` lifts a limit, or takes defaults or ceilings away."""
    from cli.workspace import Workspace
    from registry.documents.access import key_document
    from registry.key_parameters import parse_assignments
    from registry.ops import keys

    if (expires_at is not None) + (expires_in is not None) + no_end > 1:
        raise click.UsageError("give one of --expires-at, --expires-in and --no-end")
    if models and models_all:
        raise click.UsageError("give --model or --models-all, not both")
    changes: dict[str, Any] = {field: or_none(value) for field, value in limits.items() if value is not None}
    if name is not None:
        changes["name"] = name
    if models or models_all:
        changes["models"] = ["*"] if models_all else list(models)
    if expires_at is not None or expires_in is not None or no_end:
        changes["expires_at_ms"] = now_ms() + expires_in if expires_in is not None else expires_at
    if sse_ping is not None:
        changes["sse_ping"] = sse_ping
    for field, given in (("defaults", defaults), ("ceilings", ceilings)):
        if given:
            changes[field] = given
    if not changes:
        raise click.UsageError("nothing to change: give at least one option (hydrant key update --help lists them)")

    def do(session: "Session", actor: str) -> "ApiKey":
        for field in changes.keys() & {"defaults", "ceilings"}:
            changes[field] = {} if changes[field] == (NONE,) else parse_assignments(changes[field], field)
        return keys.update_key(session, actor, keys.find_key(session, key).id, **changes)

    with Workspace(console) as here:
        row = here.change(do)
    console.show({"key": key_document(row)}, [f"changed {row.name} ({row.id}): {', '.join(sorted(changes))}"])


@key.command(examples=["hydrant key rotate key_01h...", "hydrant key rotate 4f7q2z8k --overlap 24h"])
@click.argument("key")
@click.option("--overlap", type=DURATION, default="0s", help="How long the old key goes on working: 15m, 24h.")
@reporting
def rotate(console: Console, key: str, overlap: int) -> None:
    """Replace a key by a new one with the same name, models and limits, and print that."""
    from cli.workspace import Workspace
    from registry.ops import keys

    with Workspace(console) as here:
        pepper = here.settings.key_pepper.get_secret_value()
        row, plaintext = here.change(
            lambda session, actor: keys.rotate_key(
                session, actor, pepper, keys.find_key(session, key).id, overlap_s=overlap // 1000
            )
        )
    _show_once(console, row, plaintext)


@key.command(examples=["hydrant key revoke key_01h...", "hydrant key revoke 4f7q2z8k"])
@click.argument("key")
@reporting
def revoke(console: Console, key: str) -> None:
    """End a key for ever: within a second no gateway takes it. Revoking again changes nothing."""
    from cli.workspace import Workspace
    from registry.documents.access import key_document
    from registry.ops import keys

    with Workspace(console) as here:
        row = here.change(lambda session, actor: keys.revoke_key(session, actor, keys.find_key(session, key).id))
    console.show({"key": key_document(row)}, [f"revoked {row.name} ({row.id}, prefix {row.prefix})"])


def _show_once(console: Console, row: "ApiKey", plaintext: str) -> None:
    from registry.documents.access import key_document

    lines = [plaintext]
    if not console.as_json:
        console.note(f"{row.name} ({row.id}): this key is shown now and never again")
    console.show({"key": key_document(row), "plaintext": plaintext}, lines)
