"""An operation of the management API, declared once: what it takes, needs and answers. It is served from that
declaration, and described by it (admin_ui/api/openapi.py)."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Blueprint, Response, g, request
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from admin_ui import changes
from admin_ui.api.answers import (
    ApiError,
    bad_request,
    database_error,
    error_answer,
    json_answer,
    registry_error,
)
from admin_ui.api.authentication import current_actor, current_token
from admin_ui.permissions import Permission, permission
from registry.errors import RegistryError
from registry.ops import idempotency

View = TypeVar("View", bound=Callable[..., Any])
Result = TypeVar("Result")

IDEMPOTENCY_KEY = "Idempotency-Key"
NOT_ANNOUNCED = "X-Hydrant-Warning"
_LONGEST_KEY = 255


class Body(BaseModel):
    """What a client sends as JSON: nothing that is not asked for, and numbers as numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


def _without_defaults(schema: dict[str, Any]) -> None:
    for field in schema["properties"].values():
        field.pop("default", None)


class Changes(Body):
    """What a client wants changed: what it does not send stays, so the defaults below mean nothing and are not told."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)


class Query(BaseModel):
    """What a client asks for in the address."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True)
class Operation:
    """`rule` is Flask's; `answer` the type of a successful answer, None for CSV, `later` that of a 202; `errors` what
    may come besides the usual; `once`: takes an Idempotency-Key."""

    name: str
    method: str
    rule: str
    wanted: Permission
    summary: str
    body: type[BaseModel] | None
    query: type[BaseModel] | None
    answer: Any
    status: int
    errors: tuple[int, ...]
    once: bool
    tag: str
    later: Any

    @property
    def path_names(self) -> list[str]:
        """Names of the parts of the path that are parameters."""
        return re.findall(r"<(?:\w+:)?(\w+)>", self.rule)

    @property
    def path(self) -> str:
        """The path as OpenAPI writes it."""
        return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", self.rule)


class Api:
    """Operations under one prefix."""

    def __init__(self, name: str, prefix: str) -> None:
        self.blueprint = Blueprint(name, __name__, url_prefix=prefix or None)
        self.prefix = prefix
        self.operations: list[Operation] = []
        self.blueprint.register_error_handler(ApiError, error_answer)
        self.blueprint.register_error_handler(RegistryError, registry_error)
        self.blueprint.register_error_handler(OperationalError, database_error)
        self.blueprint.register_error_handler(InterfaceError, database_error)

    def operation(
        self,
        method: str,
        rule: str,
        wanted: Permission,
        summary: str,
        *,
        answer: Any,
        tag: str,
        body: type[BaseModel] | None = None,
        query: type[BaseModel] | None = None,
        status: int = 200,
        errors: tuple[int, ...] = (),
        once: bool = False,
        later: Any = None,
    ) -> Callable[[View], View]:
        """Serves the function: it is called with the path's parts, and `body` and `query` if it has them, and returns
        the answer's document (or a Response)."""

        def declare(view: View) -> View:
            declared = Operation(
                view.__name__, method, rule, wanted, summary, body, query, answer, status, errors, once, tag, later
            )
            self.operations.append(declared)
            self.blueprint.add_url_rule(
                rule,
                endpoint=view.__name__,
                view_func=permission(wanted)(_serve(declared, view)),
                methods=[method],
                provide_automatic_options=False,
                merge_slashes=False,
            )
            return view

        return declare


def change(
    do: Callable[[Session, str], Result], *, reconcile: bool = False, balance_of: Callable[[Result], str] | None = None
) -> Result:
    """Makes a change in the token's name; a header of the answer says when Redis could not be told of it."""
    result, g.announced = changes.commit(do, current_actor(), reconcile=reconcile, balance_of=balance_of)
    return result


def change_once(
    do: Callable[[Session, str], dict[str, Any]], *, secret: str | None = None, tenant_id: str | None = None
) -> dict[str, Any]:
    """A change whose answer is what `do` returns. With an Idempotency-Key it is made once; sent again, the same answer
    comes, without the field `secret`: what is shown once is not kept."""

    def guarded(session: Session, actor: str) -> dict[str, Any]:
        given = request.headers.get(IDEMPOTENCY_KEY)
        if given is None:
            return do(session, actor)
        if not 1 <= len(given) <= _LONGEST_KEY:
            raise bad_request(f"{IDEMPOTENCY_KEY} must have 1 to {_LONGEST_KEY} characters", IDEMPOTENCY_KEY)
        key, token_id = hashlib.sha256(given.encode()).hexdigest(), current_token().id
        what = b"\0".join((request.method.encode(), request.path.encode(), request.get_data()))
        before = idempotency.begin(session, token_id, key, hashlib.sha256(what).hexdigest())
        if before is not None:
            return dict(before)
        document = do(session, actor)
        idempotency.remember(session, token_id, key, {**document, secret: None} if secret else document)
        return document

    return change(guarded, balance_of=None if tenant_id is None else lambda _document: tenant_id)


def given(body: BaseModel) -> dict[str, Any]:
    """The fields that were sent, null ones too."""
    return {name: getattr(body, name) for name in body.model_fields_set}


def _serve(declared: Operation, view: Callable[..., Any]) -> Callable[..., Response]:
    def serve(**parts: str) -> Response:
        if "\0" in request.path or any("\0" in text for _name, text in request.args.items(multi=True)):
            raise bad_request("a NUL character is no part of any name")  # Postgres compares none
        arguments: dict[str, Any] = dict(parts)
        if declared.query is not None:
            arguments["query"] = _checked(lambda: declared.query.model_validate(request.args.to_dict()))  # type: ignore[union-attr]
        if declared.body is not None:
            arguments["body"] = _checked(lambda: declared.body.model_validate_json(request.get_data()))  # type: ignore[union-attr]
        answer = view(**arguments)
        if isinstance(answer, Response):
            return answer
        sent = json_answer(answer, declared.status)
        if not g.get("announced", True):
            sent.headers[NOT_ANNOUNCED] = changes.NOT_ANNOUNCED
        return sent

    return serve


def _checked(parse: Callable[[], BaseModel]) -> BaseModel:
    try:
        return parse()
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> ApiError:
    """400 for the first thing that is wrong with a body or query."""
    first: Mapping[str, Any] = error.errors(include_input=False, include_url=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    return bad_request(f"{param or 'body'}: {first['msg']}", param)
