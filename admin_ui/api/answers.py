"""What the management API answers: JSON, and errors in OpenAI's shape."""

import json
from collections.abc import Mapping

from flask import Response
from typing_extensions import TypedDict
from werkzeug.exceptions import HTTPException

from registry.errors import ConflictError, NotFoundError, RegistryError

PREFIX = "/admin/v1"
LITELLM_PREFIXES = ("/key/", "/team/", "/user/", "/model/", "/v1/model/", "/spend/")


class ErrorDetail(TypedDict):
    """`param` names the field at fault, `code` is for programs, `message` says what to do."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorDocument(TypedDict):
    """Every answer from 400 on."""

    error: ErrorDetail


class ApiError(Exception):
    """An answer other than success."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        type_: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail: ErrorDetail = {"message": message, "type": type_, "param": param, "code": code}
        self.headers = dict(headers or {})


def is_api_path(path: str) -> bool:
    """Whether programs ask here, so that what goes wrong is told as JSON."""
    return path == PREFIX or path.startswith((f"{PREFIX}/", *LITELLM_PREFIXES))


def json_answer(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A document."""
    return Response(json.dumps(document, ensure_ascii=False), status, headers, content_type="application/json")


def error_answer(error: ApiError) -> Response:
    """An error as it is sent."""
    document: ErrorDocument = {"error": error.detail}
    return json_answer(document, error.status, error.headers)


def registry_error(error: RegistryError) -> Response:
    """What the registry refused: 404, 409 or 400, naming the field."""
    status = 404 if isinstance(error, NotFoundError) else 409 if isinstance(error, ConflictError) else 400
    return error_answer(ApiError(status, error.message, error.code, param=error.field))


def database_error(_error: Exception) -> Response:
    """SQL does not answer: nothing was changed."""
    return error_answer(
        ApiError(
            503,
            "The database does not answer, and nothing was changed. Try again.",
            "database_unavailable",
            type_="server_error",
            headers={"Retry-After": "2"},
        )
    )


def http_error(error: HTTPException) -> Response:
    """What Flask itself refuses, and what broke."""
    status = error.code or 500
    message, code = _HTTP.get(status, (error.description or error.name, "invalid_request"))
    answer = error_answer(
        ApiError(status, message, code, type_="server_error" if status >= 500 else "invalid_request_error")
    )
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            answer.headers[name] = value
    return answer


def bad_request(message: str, param: str | None = None) -> ApiError:
    """400: what was sent cannot be used; `param` names the field."""
    return ApiError(400, message, "invalid", param=param)


_HTTP: dict[int, tuple[str, str]] = {
    404: ("There is nothing here. GET /admin/v1/openapi.json tells what there is.", "unknown_url"),
    405: ("This address does not take that method; the header Allow names those that it takes.", "method_not_allowed"),
    413: ("The body is larger than 1 MB.", "request_too_large"),
    500: ("Something broke on our side and the change, if any, was not made. The log says more.", "internal_error"),
}
