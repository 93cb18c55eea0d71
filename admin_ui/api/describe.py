"""Where the OpenAPI document is: it holds no secret and needs no token."""

from functools import cache

from flask import Blueprint, Response

from admin_ui.api import resources
from admin_ui.api.answers import PREFIX, json_answer
from admin_ui.api.openapi import openapi_document
from admin_ui.permissions import PUBLIC, permission

blueprint = Blueprint("openapi", __name__, url_prefix=PREFIX)


@blueprint.get("/openapi.json")
@permission(PUBLIC)
def openapi() -> Response:
    """The document."""
    return json_answer(_document())


@cache
def _document() -> dict[str, object]:
    return openapi_document(resources.APIS)
