"""The inference API's document says what the code does: every endpoint, every error code with its status, and schemas
that are schemas."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from gateway import errors
from gateway.body.parsing import Endpoint
from gateway.errors import ApiError
from gateway.openapi import ERRORS, openapi_document

GATEWAY = Path(errors.__file__).parent
# The management API's, which has a document of its own; and what the hosted process tells the gateway alone.
NOT_OURS = {"forward.py"}
# By function, which argument is the status (or the status itself), and which is the code when it has no name.
MAKERS = {
    "ApiError": (0, None), "invalid_request": ("400", 2), "unavailable": ("503", 1), "provider_error": (0, 1),
    "_refuse": (0, 1),
}  # fmt: skip


def codes_of(source: Path) -> Iterator[tuple[int, str | None]]:
    """(status, code) of each error that a file makes, where it says both."""
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in MAKERS:
            continue
        where, place = MAKERS[name]
        status = node.args[where] if isinstance(where, int) else ast.Constant(int(where))
        named = next((keyword.value for keyword in node.keywords if keyword.arg == "code"), None)
        code = named or (node.args[place] if place is not None and place < len(node.args) else ast.Constant(None))
        if isinstance(code, ast.Name):
            code = ast.Constant(getattr(errors, code.id, code))
        if (
            not isinstance(status, ast.Constant)
            or not isinstance(code, ast.Constant)
            or isinstance(code.value, ast.AST)
        ):
            continue  # passed on from elsewhere, where it is a constant
        yield int(str(status.value)), f"provider_{code.value}" if name == "provider_error" else code.value


def made() -> set[tuple[int, str | None]]:
    """Those of the whole gateway, and what the hosted process says of providers."""
    hosted = set((GATEWAY / "hosted").glob("*.py")) - {GATEWAY / "hosted/provider.py"}
    sources = [source for source in GATEWAY.rglob("*.py") if source.name not in NOT_OURS and source not in hosted]
    return {pair for source in sources for pair in codes_of(source)}


def test_every_endpoint_is_described() -> None:
    paths = openapi_document()["paths"]
    assert {path for path, item in paths.items() if "post" in item} == {endpoint.path for endpoint in Endpoint}


def test_every_error_code_is_documented_with_its_status_and_no_other() -> None:
    documented = {(status, code) for status, (_, codes) in ERRORS.items() for code in codes if code is not None}
    in_code = {(status, code) for status, code in made() if code is not None}
    # Which of a provider's refusals come as they are is a condition there, not a constant.
    refused = {(status, "provider_refused") for status in (400, 413, 422)}
    assert documented == in_code | refused


def test_errors_that_are_made_by_hand_have_documented_statuses() -> None:
    assert {status for status, _ in made()} <= set(ERRORS)


def test_the_document_is_whole() -> None:
    """Every reference leads somewhere, every name is used once, and every schema is one of JSON Schema 2020-12."""
    document = openapi_document()
    schemas, responses = document["components"]["schemas"], document["components"]["responses"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    references = {part.split("'")[0] for part in str(document).split("#/components/")[1:]}
    assert references <= {f"schemas/{name}" for name in schemas} | {f"responses/{name}" for name in responses}
    operations = [item[method] for item in document["paths"].values() for method in ("get", "post") if method in item]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


@pytest.mark.parametrize("error", [errors.worker_failed("x"), errors.hold_timed_out("m", 1, None)])
def test_an_errors_body_is_as_described(error: ApiError) -> None:
    schema = openapi_document()["components"]["schemas"]["Error"]
    jsonschema.Draft202012Validator(schema).validate(json.loads(error.openai_body()))
