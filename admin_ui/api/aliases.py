"""Other names of models, each for one or shared by several."""

from typing import Annotated

from pydantic import Field
from sqlalchemy.orm import Session
from typing_extensions import TypedDict

from admin_ui.api.management import Text, api
from admin_ui.api.models import find_model
from admin_ui.api.operation import Body, change
from admin_ui.database import db
from admin_ui.permissions import Permission
from registry.documents.models import AliasDocument, alias_document
from registry.models import Alias
from registry.ops import aliases
from registry.ops.aliases import MAX_TARGETS, MAX_WEIGHT

TAG = "models"
Weight = Annotated[int, Field(ge=1, le=MAX_WEIGHT)]


class Aliases(TypedDict):
    """A model's other names."""

    model: str
    aliases: list[AliasDocument]


class OneAlias(TypedDict):
    """One alias."""

    alias: AliasDocument


class RemovedAlias(TypedDict):
    """A name that was given up."""

    removed: AliasDocument


class NewAlias(Body):
    """Another name."""

    alias: Text


class Shares(Body):
    """Which models share the requests for an alias, each in proportion to its weight."""

    models: Annotated[dict[Text, Weight], Field(min_length=1, max_length=MAX_TARGETS)]


@api.operation("GET", "/models/<path:model>/aliases", Permission.SEE, "A model's other names", tag=TAG, answer=Aliases)
def list_aliases(model: str) -> Aliases:
    row = find_model(db(), model)
    return {"model": row.name, "aliases": [alias_document(one) for one in aliases.list_aliases(db(), row.id)]}


@api.operation(
    "POST", "/models/<path:model>/aliases", Permission.CHANGE_MODELS, "Give a model another name", tag=TAG,
    body=NewAlias, answer=Aliases, status=201, errors=(409,),
)  # fmt: skip
def add_alias(model: str, body: NewAlias) -> Aliases:
    change(lambda session, actor: aliases.add_alias(session, actor, find_model(session, model).id, body.alias))
    return list_aliases(model)


@api.operation(
    "PUT", "/aliases/<path:alias>", Permission.CHANGE_MODELS, "Have models share a name by weight", tag=TAG,
    body=Shares, answer=OneAlias, errors=(409,),
)  # fmt: skip
def share_alias(alias: str, body: Shares) -> OneAlias:
    def do(session: Session, actor: str) -> Alias:
        return aliases.set_split(session, actor, alias, body.models)

    change(do)
    return {"alias": alias_document(aliases.get_alias(db(), alias))}


@api.operation(
    "DELETE", "/aliases/<path:alias>", Permission.CHANGE_MODELS, "Give a name up", tag=TAG, answer=RemovedAlias
)
def remove_alias(alias: str) -> RemovedAlias:
    def do(session: Session, actor: str) -> RemovedAlias:
        document = alias_document(aliases.get_alias(session, alias))
        aliases.remove_alias(session, actor, alias)
        return {"removed": document}

    return change(do)
