"""`hydrant model alias`: other names, each for one model or shared by several."""

from typing import TYPE_CHECKING

import click

from cli.command import Group, reporting
from cli.console import Console
from cli.errors import Failure

if TYPE_CHECKING:
    from cli.workspace import Workspace
    from registry.documents.models import AliasDocument
    from registry.models import Alias


@click.group(
    cls=Group,
    examples=[
        "hydrant model alias add qwen3-8b gpt-4o-mini          clients may ask for either name",
        "hydrant model alias split chat qwen3-8b=95 next=5     one request in twenty goes to the new model",
        "hydrant model alias list qwen3-8b",
        "hydrant model alias remove gpt-4o-mini",
    ],
)
def alias() -> None:
    """Other names for a model, or one name that several models share."""


@alias.command(examples=["hydrant model alias add qwen3-8b gpt-4o-mini"])
@click.argument("name")
@click.argument("alias")
@reporting
def add(console: Console, name: str, alias: str) -> None:
    """Let clients ask for the model NAME as ALIAS too."""
    from cli.workspace import Workspace
    from registry.ops import aliases, models

    with Workspace(console) as here:
        row = here.change(
            lambda session, actor: aliases.add_alias(session, actor, models.resolve_name(session, name).id, alias)
        )
        document = _read(here, row)
    console.show({"alias": document}, [f"{alias} is another name for {next(iter(document['models']))}"])


@alias.command(
    examples=[
        "hydrant model alias split chat qwen3-8b=95 next=5",
        "hydrant model alias split chat next=1           all of it: the canary has done well",
    ]
)
@click.argument("alias")
@click.argument("shares", nargs=-1, required=True, metavar="MODEL=WEIGHT...")
@reporting
def split(console: Console, alias: str, shares: tuple[str, ...]) -> None:
    """Have models share the requests for ALIAS, new or not, in proportion to their weights (1 to 1000).

    Requests with the same `prompt_cache_key`, or else the same `user`, go to the same model.
    """
    from cli.workspace import Workspace
    from registry.ops import aliases

    weights = _weights(shares)
    with Workspace(console) as here:
        row = here.change(lambda session, actor: aliases.set_split(session, actor, alias, weights))
        document = _read(here, row)
    console.show({"alias": document}, [alias_words(document)])


@alias.command(examples=["hydrant model alias remove gpt-4o-mini"])
@click.argument("alias")
@reporting
def remove(console: Console, alias: str) -> None:
    """Give a name up: requests for ALIAS are refused from then on."""
    from cli.workspace import Workspace
    from registry.ops import aliases

    with Workspace(console) as here:
        here.change(lambda session, actor: aliases.remove_alias(session, actor, alias))
    console.show({"removed": alias}, [f"{alias} names no model any more"])


@alias.command("list", examples=["hydrant model alias list qwen3-8b"])
@click.argument("name")
@reporting
def list_(console: Console, name: str) -> None:
    """The other names of a model, with who shares them."""
    from cli.workspace import Workspace
    from registry.documents.models import alias_document
    from registry.ops import aliases, models

    with Workspace(console) as here, here.read() as session:
        row = models.find_model(session, name)
        found = [alias_document(one) for one in aliases.list_aliases(session, row.id)]
    lines = [alias_words(one) for one in found] or [f"{row.name} has no other name"]
    console.show({"model": row.name, "aliases": found}, lines)


def alias_words(document: "AliasDocument") -> str:
    """An alias as a person reads it: `chat (qwen3-8b 95, next 5)`; only the name when it is one model's."""
    if len(document["models"]) == 1:
        return str(document["name"])
    shares = ", ".join(f"{name} {weight}" for name, weight in document["models"].items())
    return f"{document['name']} ({shares})"


def _read(here: "Workspace", row: "Alias") -> "AliasDocument":
    from registry.documents.models import alias_document
    from registry.ops import aliases

    with here.read() as session:
        return alias_document(aliases.get_alias(session, row.name))


def _weights(shares: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for share in shares:
        name, _, weight = share.rpartition("=")
        if not name or not weight.isdecimal():
            raise click.UsageError(f"write MODEL=WEIGHT, for example qwen3-8b=95, not {share!r}")
        if name in found:
            raise Failure(f"{name} is named twice; give each model one weight", "shares")
        found[name] = int(weight)
    return found
