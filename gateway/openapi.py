"""The inference API's OpenAPI 3.1 document, served at `/openapi.json`. Pure.

Hand-written beside the code that it describes, and held to it: by tests of every endpoint and error code, and by
requests made from it (tests/conformance/test_inference_openapi.py).
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

import orjson

from gateway.body.parsing import Endpoint
from gateway.idempotency import MAX_KEY_LENGTH
from gateway.openapi_schemas import ANSWERS, ANTHROPIC_ERROR, ERROR, MODEL, MODELS, REQUESTS, Schema

SUMMARIES = {
    Endpoint.CHAT: "OpenAI's chat completions: a conversation's next message",
    Endpoint.COMPLETIONS: "OpenAI's completions: a text goes on",
    Endpoint.EMBEDDINGS: "OpenAI's embeddings: vectors of texts",
    Endpoint.RESPONSES: "OpenAI's responses; nothing is stored, so each request sends the whole conversation",
    Endpoint.MESSAGES: "Anthropic's messages",
}
ERRORS: dict[int, tuple[str, tuple[str | None, ...]]] = {
    400: (
        "The request cannot be used; `param` names the field. Without a code: the gateway or the worker says what is "
        "wrong in `message`.",
        (
            *(None, "invalid_json", "context_length_exceeded", "tokens_over_limit", "over_key_ceiling", "invalid_http"),
            "provider_refused",
        ),
    ),
    401: (
        "The API key is missing, unknown, expired or revoked, is a management token, or its tenant is disabled.",
        ("invalid_api_key",),
    ),
    403: ("The model is not on the key's list.", ("model_not_permitted",)),
    404: (
        "No such model, or no such path; a response is never stored.",
        ("model_not_found", "model_disabled", "unknown_url", "response_not_stored"),
    ),
    405: ("The path takes another method, which `Allow` names.", ("method_not_allowed",)),
    408: ("The request's head did not arrive in time.", ("request_timeout",)),
    409: (
        "This request is in flight on another gateway process: ask again, as SDKs do.",
        ("idempotency_key_in_flight",),
    ),
    413: (
        "The body is too large for the gateway, worker or provider.",
        ("request_too_large", "provider_refused", None),
    ),
    422: (
        "The Idempotency-Key is in use for another body; or the worker or provider cannot use the request.",
        ("idempotency_key_reused", "provider_refused", None),
    ),
    429: ("A limit, the balance or a budget does not allow it now.", ("rate_limit_exceeded", "insufficient_quota")),
    431: ("The request's line and headers are too large.", ("request_head_too_large",)),
    500: ("A defect of the gateway; its log says why.", ("internal_error",)),
    502: (
        "The workers, or the provider, failed on this request.",
        (
            *("worker_failed", "translation_failed"),
            *("provider_misconfigured", "provider_unreached", "provider_failed"),
        ),
    ),
    503: (
        "Not now: ask again after `Retry-After`.",
        (
            *("not_ready", "gateway_restarting", "redis_unavailable", "admission_unavailable", "balance_unknown"),
            *("budget_unknown", "reservation_lost", "hold_full", "model_cold", "model_start_failed", "hosted_down"),
            "provider_overloaded",
        ),
    ),
    504: (
        "The model was not ready before the wait's end, or its provider did not answer in time.",
        ("hold_timeout", "provider_timeout"),
    ),
}
"""What each status means, and its codes; None: there is none."""
# What is no HTTP, too slow or too large is refused before its path is known, so in OpenAI's form.
_BEFORE_THE_PATH = {400: ("invalid_http",), 408: ("request_timeout",), 431: ("request_head_too_large",)}
_RETRIED = (409, 429, 502, 503, 504)
_NEVER_ADMITTED = (405, 408, 409, 431)
_INTEGER: Schema = {"type": "integer", "minimum": 0}
_HEADERS: Schema = {
    "x-request-id": {
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"},
        "description": "The request's own, if that was short and plain.",
    },
    "openai-processing-ms": {"required": True, "schema": _INTEGER},
}
_RETRY_AFTER: Schema = {"retry-after": {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds."}}
_SECONDS: Schema = {"type": "string", "pattern": "^[0-9]+s$"}
_LIMIT_HEADERS: Schema = {
    f"x-ratelimit-{what}-{of}": {"schema": schema, "description": description.format(of=of)}
    for of in ("requests", "tokens")
    for what, schema, description in (
        (
            "limit",
            _INTEGER,
            "How many {of} a minute the tightest limit allows: the key's, the tenant's or the model's.",
        ),
        ("remaining", _INTEGER, "How many {of} that limit leaves in this minute."),
        ("reset", _SECONDS, "In how many seconds the next minute begins, such as `12s`."),
    )
}
_NOT_AGAIN: Schema = {
    "x-should-retry": {
        "schema": {"const": "false"},
        "description": "Asking again is of no use before somebody has done what the message says. SDKs obey.",
    }
}
_ANSWER_HEADERS: Schema = {
    "x-hydrant-served-by": {"schema": {"type": "string"}, "description": "The provider's model that was asked."},
    "x-hydrant-cold-start": {
        "schema": {"type": "string", "pattern": "^[^;]+; [0-9]+$"},
        "description": "The cold start that the request waited for, and for how many milliseconds.",
    },
}
_STREAM_HEADERS: Schema = {
    "cache-control": {"schema": {"const": "no-store"}, "description": "Of a stream."},
    "x-accel-buffering": {
        "schema": {"const": "no"},
        "description": "Of a stream: a proxy in front passes on what comes when it comes.",
    },
}
_PARAMETERS: list[Schema] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "pattern": f"^[!-~]{{1,{MAX_KEY_LENGTH}}}$"},
        "description": "The same request sent again while the first is in flight joins it, for one bill.",
    },
    {
        "name": "X-Request-Id",
        "in": "header",
        "schema": {"type": "string"},
        "description": "The request's id in the answer and in the logs, where it is 1 to 128 letters, digits or "
        "`_.:-`; else the gateway makes one.",
    },
]
_DESCRIPTION = (
    "OpenAI's API, and Anthropic's Messages, before models that run when they are asked for. Fields that are not "
    "described here are passed on to the model's worker. The management API describes itself at "
    "/admin/v1/openapi.json."
)


@cache
def openapi_json() -> bytes:
    """The document as it is served."""
    return orjson.dumps(openapi_document())


def openapi_document() -> dict[str, Any]:
    """The document."""
    one_model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    text = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hydrant inference API", "version": version("hydrant"), "description": _DESCRIPTION},
        "security": [{"bearer": []}, {"x-api-key": []}],
        "paths": {
            **{endpoint.path: {"post": _inference(endpoint)} for endpoint in Endpoint},
            "/v1/models": {"get": _get("listModels", "The models that the key may use", _json(MODELS), 401, 503)},
            "/v1/models/{model}": {
                "parameters": [one_model],
                "get": _get("getModel", "One of them", _json(MODEL), 401, 404, 503),
            },
            "/health": {"get": _open("health", "Whether the process runs", _json(_status("ok")))},
            "/ready": {"get": _open("ready", "Whether it can serve", _json(_status("ready")), 503)},
            "/metrics": {"get": _open("metrics", "Metrics for Prometheus", text)},
            "/openapi.json": {"get": _open("openapi", "This document", _json({"type": "object"}))},
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "hyd-..."},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {
                "Error": ERROR,
                "AnthropicError": ANTHROPIC_ERROR,
                **{f"{_name(endpoint)}Request": schema for endpoint, schema in REQUESTS.items()},
                **{f"{_name(endpoint)}Answer": schema for endpoint, schema in ANSWERS.items()},
            },
            "responses": {f"Error{status}": _error(status, anthropic=False) for status in ERRORS},
        },
    }


def _name(endpoint: Endpoint) -> str:
    return endpoint.name.capitalize()


def _reference(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _status(word: str) -> Schema:
    return {"type": "object", "properties": {"status": {"const": word}}, "required": ["status"]}


def _inference(endpoint: Endpoint) -> Schema:
    content = _json(_reference("schemas", f"{_name(endpoint)}Answer"))
    headers = _HEADERS | _LIMIT_HEADERS | _ANSWER_HEADERS
    if endpoint is not Endpoint.EMBEDDINGS:
        content["text/event-stream"] = {}
        headers |= _STREAM_HEADERS
    answer = {
        "description": "The answer, whole or (where `stream` is true) as server-sent events. An error after their "
        "beginning is the last event.",
        "headers": headers,
        "content": content,
    }
    anthropic = endpoint is Endpoint.MESSAGES
    errors = {str(s): _error(s, anthropic=True) if anthropic else _documented(s) for s in ERRORS if s != 405}
    return {
        "operationId": endpoint.name.lower(),
        "summary": SUMMARIES[endpoint],
        "parameters": _PARAMETERS,
        "requestBody": {"required": True, "content": _json(_reference("schemas", f"{_name(endpoint)}Request"))},
        "responses": {"200": answer, **errors},
    }


def _get(operation: str, summary: str, content: Schema, *errors: int) -> Schema:
    statuses = sorted({400, 408, 431, 500, *errors})
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {
            "200": {"description": summary, "headers": _HEADERS, "content": content},
            **{str(status): _documented(status) for status in statuses},
        },
    }


def _open(operation: str, summary: str, content: Schema, *errors: int) -> Schema:
    """As `_get`, without an API key."""
    return _get(operation, summary, content, *errors) | {"security": []}


def _documented(status: int) -> Schema:
    return _reference("responses", f"Error{status}")


def _error(status: int, *, anthropic: bool) -> Schema:
    """What is told with a status. `anthropic`: by `/v1/messages`, but for what is refused before its path is known."""
    description, codes = ERRORS[status]
    schemas: list[Schema] = []
    if anthropic:
        schemas.append(_reference("schemas", "AnthropicError"))
        codes = _BEFORE_THE_PATH.get(status, ())
    if codes:
        narrowed = {"properties": {"error": {"properties": {"code": {"enum": list(codes)}}}}}
        schemas.append({"allOf": [_reference("schemas", "Error"), narrowed]})
    headers: Schema = {}
    if status not in _BEFORE_THE_PATH or status == 400:
        # What is refused by the connection itself has no id and no time.
        headers = {name: header | {"required": status != 400} for name, header in _HEADERS.items()}
    if status in _RETRIED:
        headers |= _RETRY_AFTER
    if status not in _NEVER_ADMITTED:
        headers |= _LIMIT_HEADERS | _ANSWER_HEADERS
    if status in (429, 502):
        headers |= _NOT_AGAIN
    if status == 405:
        headers |= {"allow": {"required": True, "schema": {"type": "string"}}}
    content = _json(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})
    return {"description": description, "content": content} | ({"headers": headers} if headers else {})
