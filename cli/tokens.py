"""`hydrant token`: what lets programs manage Hydrant over HTTP. A token is printed once, when it is made."""

from typing import TYPE_CHECKING

import click

from cli.command import Group, reporting
from cli.console import Console, table
from cli.params import DURATION, MOMENT
from cli.units import moment
from registry.ids import now_ms

if TYPE_CHECKING:
    from registry.documents.access import TokenDocument


@click.group(
    cls=Group,
    examples=[
        "hydrant token create ci --role operator --expires-in 90d",
        "hydrant token list",
        "hydrant token revoke 4f7q2z8k          the part of the token after hym-",
    ],
)
def token() -> None:
    """Tokens of the management API (/admin/v1), each with a person's role. Named by id (tok_...) or public prefix."""


@token.command(
    examples=[
        "hydrant token create ci --role operator --expires-in 90d",
        "export HYDRANT_TOKEN=$(hydrant token create shell --role viewer --json | jq -r .plaintext)",
    ]
)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["owner", "operator", "viewer"]),
    required=True,
    help="Owners may do all, operators change models, nodes, tenants and keys, viewers look.",
)
@click.option("--expires-at", type=MOMENT, help="When it ends, for example 2027-01-31 (UTC).")
@click.option("--expires-in", type=DURATION, help="When it ends, from now: 24h, 90d.")
@reporting
def create(console: Console, name: str, role: str, expires_at: int | None, expires_in: int | None) -> None:
    """Make a token called NAME and print it. This is the only time that it can be seen."""
    from cli.workspace import Workspace
    from registry.documents.access import token_document
    from registry.ops import tokens

    if expires_at is not None and expires_in is not None:
        raise click.UsageError("give --expires-at or --expires-in, not both")
    ends = now_ms() + expires_in if expires_in is not None else expires_at
    with Workspace(console) as here:
        pepper = here.settings.key_pepper.get_secret_value()
        row, plaintext = here.change(
            lambda session, actor: tokens.create_token(
                session, actor, pepper, name=name, role=role, expires_at_ms=ends
            ),
            publish=False,
        )
    if not console.as_json:
        console.note(f"{row.name} ({row.id}, {row.role}): this token is shown now and never again")
    console.show({"token": token_document(row), "plaintext": plaintext}, [plaintext])


@token.command("list", examples=["hydrant token list", "hydrant token list --all"])
@click.option("--all", "everything", is_flag=True, help="Revoked and expired ones too.")
@reporting
def list_(console: Console, everything: bool) -> None:
    """Tokens, the newest first; never the tokens themselves."""
    from cli.workspace import Workspace
    from registry.documents.access import token_document
    from registry.ops import tokens

    with Workspace(console) as here, here.read() as session:
        found = [token_document(row) for row in tokens.list_tokens(session)]
    shown = [d for d in found if everything or d["state"] == "live"]
    lines = table(("ID", "PREFIX", "NAME", "ROLE", "STATE", "BY", "EXPIRES (UTC)", "USED (UTC)"), map(_row, shown))
    console.show({"tokens": shown}, lines if shown else ["no token; make one: hydrant token create NAME --role ROLE"])


@token.command(examples=["hydrant token revoke tok_01h...", "hydrant token revoke 4f7q2z8k"])
@click.argument("token")
@reporting
def revoke(console: Console, token: str) -> None:
    """End a token for ever, at once. Revoking again changes nothing."""
    from cli.workspace import Workspace
    from registry.documents.access import token_document
    from registry.ops import tokens

    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: tokens.revoke_token(session, actor, tokens.find_token(session, token).id),
            publish=False,
        )
    console.show({"token": token_document(row)}, [f"revoked {row.name} ({row.id}, prefix {row.prefix})"])


def _row(d: "TokenDocument") -> tuple[object, ...]:
    return (
        d["token_id"],
        d["prefix"],
        d["name"],
        d["role"],
        d["state"],
        d["created_by"],
        moment(d["expires_at_ms"]),
        moment(d["last_used_at_ms"]),
    )
