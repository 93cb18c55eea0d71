"""The OpenAPI 3.1 document, from the operations' own declarations. pydantic writes the schemas, which are of the same
JSON Schema (2020-12) that OpenAPI 3.1 takes; docs/adr/0012 says why there is no library for the rest."""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter

from admin_ui.api.answers import ErrorDocument
from admin_ui.api.operation import IDEMPOTENCY_KEY, Api, Operation
from admin_ui.permissions import LOWEST_ROLE

_TEXTS = {
    400: "The request cannot be used; `param` names the field.",
    401: "The management token is missing, unknown, expired or revoked.",
    403: "The token's role does not allow this.",
    404: "What the path or body names does not exist.",
    409: "Impossible in the present state: a name is taken, a key has ended.",
    413: "The body is larger than 1 MB.",
    429: "Too many wrong tokens from this address.",
    500: "A defect; nothing was changed.",
    503: "The database does not answer; nothing was changed.",
}


def openapi_document(apis: Sequence[Api]) -> dict[str, Any]:
    """The whole document."""
    operations = [(api, operation) for api in apis for operation in api.operations]
    types: list[tuple[Any, Any, TypeAdapter[Any]]] = [("error", "serialization", TypeAdapter(ErrorDocument))]
    for _api, operation in operations:
        types += [((operation.name, part), mode, TypeAdapter(type_)) for part, mode, type_ in _types(operation)]
    schemas, definitions = TypeAdapter.json_schemas(types, ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {}
    for api, operation in operations:
        described = _operation(operation, schemas)
        paths.setdefault(api.prefix + operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hydrant management API",
            "version": version("hydrant"),
            "description": "Money is integer nano-dollars (`*_nusd`), with the same amount in dollars beside it. Times"
            " are milliseconds since the epoch. Tokens are made by `hydrant token create` or in the admin UI.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "hym-..."}},
            "schemas": definitions["$defs"],
        },
    }


def _types(operation: Operation) -> Iterable[tuple[str, Any, Any]]:
    if operation.body is not None:
        yield "body", "validation", operation.body
    if operation.answer is not None:
        yield "answer", "serialization", operation.answer
    if operation.later is not None:
        yield "later", "serialization", operation.later


def _operation(operation: Operation, schemas: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": f"Needs the role {LOWEST_ROLE[operation.wanted]} or a higher one.",
        "parameters": list(_parameters(operation)),
        "responses": {
            str(operation.status): _success(operation, "answer", operation.answer, schemas),
            **({"202": _success(operation, "later", operation.later, schemas)} if operation.later is not None else {}),
            **{str(code): _error(code, schemas) for code in sorted(_errors(operation))},
        },
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schemas[((operation.name, "body"), "validation")]}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    for name in operation.path_names:
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    if operation.query is not None:
        schema = operation.query.model_json_schema()
        for name, field in schema["properties"].items():
            yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": field}
    if operation.once:
        text = "Sent again with the same key within a day, the change is not made again and the same answer comes."
        schema = {"type": "string", "minLength": 1, "maxLength": 255}
        yield {"name": IDEMPOTENCY_KEY, "in": "header", "required": False, "description": text, "schema": schema}


def _success(operation: Operation, part: str, type_: Any, schemas: Any) -> dict[str, Any]:
    if type_ is None:
        return {"description": "CSV", "content": {"text/csv": {"schema": {"type": "string"}}}}
    schema = schemas[((operation.name, part), "serialization")]
    return {"description": operation.summary, "content": {"application/json": {"schema": schema}}}


def _errors(operation: Operation) -> set[int]:
    found = {400, 401, 403, 429, 500, 503, *operation.errors}
    if operation.body is not None:
        found.add(413)
    if operation.path_names:
        found.add(404)
    return found


def _error(code: int, schemas: Any) -> dict[str, Any]:
    schema = schemas[("error", "serialization")]
    return {"description": _TEXTS[code], "content": {"application/json": {"schema": schema}}}
