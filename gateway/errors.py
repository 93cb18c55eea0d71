"""Every error a client can see, in OpenAI's and in Anthropic's shape.

ApiError
  400 invalid_request   401 invalid_api_key   403 not_permitted   404 model_not_found, unknown_path, response_not_stored
  405 wrong_method      409, 422 idempotency keys   413 body_too_large    429 rate_limited, insufficient_quota
  500 internal          502 worker_failed, translation_failed, provider_error (also 503, 504)
  503 unavailable       504 hold_timed_out
The 502 of the management API is gateway/forward.py's own.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

import orjson

RETRY_S = 5
"""After how long to ask again for a model of which nobody knows when it will be there."""
RETRY_MOST_S = 600
_PERIODS = {"day": "for this day (UTC)", "month": "for this month (UTC)", "total": "in total"}
_NOT_AGAIN = ((b"x-should-retry", b"false"),)
"""Tells the SDKs not to repeat the request by themselves."""
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    422: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


# What the hosted process says of a worker that gave no answer: it was never reached (nothing ran), it broke off, it
# answered with something unfinished, or its good answer has no form in the client's API.
WORKER_UNREACHED = "worker_unreached"
WORKER_LOST = "worker_lost"
WORKER_FAILED = "worker_failed"
TRANSLATION_FAILED = "translation_failed"


class ApiError(Exception):
    """An answer other than success. `retry_after_s` becomes the Retry-After header."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type_
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = headers

    def openai_body(self) -> bytes:
        """`{"error": {message, type, param, code}}`, as OpenAI sends it."""
        return orjson.dumps(
            {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}
        )

    def anthropic_body(self) -> bytes:
        """`{"type": "error", "error": {type, message}}`, as Anthropic sends it."""
        return orjson.dumps(
            {
                "type": "error",
                "error": {"type": _ANTHROPIC_TYPES.get(self.status, "api_error"), "message": self.message},
            }
        )


def invalid_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the body cannot be used; `param` names the field."""
    return ApiError(400, message, param=param, code=code)


def invalid_api_key() -> ApiError:
    """401: one message for a missing, unknown, revoked or expired key, and for that of a disabled tenant, so that
    nothing can be probed."""
    return ApiError(
        401,
        "The API key is missing, unknown, expired or revoked, or its tenant is disabled. Send "
        "`Authorization: Bearer hyd-...` with a live key.",
        code="invalid_api_key",
    )


def management_token() -> ApiError:
    """401: a management token where an API key is asked for."""
    return ApiError(
        401,
        "This is a management token (`hym-...`), which is for the management API under `/admin/v1`. Send "
        "`Authorization: Bearer hyd-...` with an API key here.",
        code="invalid_api_key",
    )


def not_permitted(model: str) -> ApiError:
    """403: the key is good, the model is not on its list."""
    return ApiError(
        403,
        f"This API key may not use the model `{model}`. Ask the key's owner to add it to the key's models.",
        type_="permission_error",
        code="model_not_permitted",
        param="model",
    )


def model_not_found(model: str) -> ApiError:
    """404: no model or alias has this name."""
    return ApiError(
        404,
        f"The model `{model}` does not exist. GET /v1/models lists the models this key may use.",
        code="model_not_found",
        param="model",
    )


def model_disabled(model: str) -> ApiError:
    """404: the model is registered and switched off."""
    return ApiError(
        404, f"The model `{model}` is disabled. An operator can enable it again.", code="model_disabled", param="model"
    )


def unknown_path(path: str) -> ApiError:
    """404: no endpoint has this path."""
    hint = ""
    if path in ("/v1", "/v1/"):
        hint = " An SDK's base_url ends with `/v1`; `/openapi.json` describes the endpoints under it."
    return ApiError(404, f"There is no endpoint `{path}` here.{hint}", code="unknown_url")


def at_the_root(admin_address: str | None) -> ApiError:
    """404: somebody looks for a page where programs are served. `admin_address`: where it may be told."""
    return ApiError(
        404,
        "This is the gateway, for programs: its endpoints are under `/v1`, which an SDK's base_url ends with, and "
        f"`/openapi.json` describes them. The admin UI is at {admin_address or 'an address of its own'}.",
        code="unknown_url",
    )


def response_not_stored(path: str) -> ApiError:
    """404: whatever is asked of an earlier response, none is kept."""
    return ApiError(
        404,
        f"There is nothing at `{path}`: responses are not stored, so that none can be read, continued, cancelled or "
        "deleted. Keep what POST /v1/responses answers, and send the whole conversation as `input`.",
        code="response_not_stored",
    )


def wrong_method(method: str, path: str, allowed: str) -> ApiError:
    """405: the endpoint exists for another method."""
    return ApiError(
        405,
        f"`{path}` takes {allowed}, not {method}.",
        code="method_not_allowed",
        headers=((b"allow", allowed.encode()),),
    )


def body_too_large(limit_bytes: int) -> ApiError:
    """413: more bytes than the gateway reads."""
    return ApiError(413, f"The request body is larger than {limit_bytes} bytes.", code="request_too_large")


def rate_limited(kind: str, message: str, retry_after_s: int) -> ApiError:
    """429: a limit per minute or of parallel requests; `kind` is "requests" or "tokens"."""
    return ApiError(429, message, type_=kind, code="rate_limit_exceeded", retry_after_s=retry_after_s)


def insufficient_quota() -> ApiError:
    """429: the balance, less what running requests may still cost, does not cover this request. SDKs are told not to
    repeat it by themselves."""
    return ApiError(
        429,
        "The balance does not cover what this request may cost (its prompt and max_tokens). "
        "Top up the tenant, wait for running requests to end, or lower max_tokens.",
        type_="insufficient_quota",
        code="insufficient_quota",
        headers=_NOT_AGAIN,
    )


def over_budget(
    whose: str,
    period: str,
    amount_nusd: int,
    ends_at_ms: int | None,
    at_ms: int,
    *,
    left_nusd: int,
    cost_nusd: int,
    busy: bool,
) -> ApiError:
    """429: a budget does not cover this request, which may cost `cost_nusd`. `busy`: it would, but for what running
    requests may still cost; otherwise asking again is of no use before the budget's window ends, and SDKs are told so.
    """
    left = _usd(max(0, left_nusd))
    what = f"The {whose}'s budget {_PERIODS[period]} ({_usd(amount_nusd)}) has {left} left"
    if busy:
        return ApiError(
            429,
            f"{what} while other requests of it run, and this one may cost {_usd(cost_nusd)} (its prompt and "
            "max_tokens). Try again when they have ended, or lower max_tokens.",
            type_="insufficient_quota",
            code="insufficient_quota",
            retry_after_s=1,
        )
    if ends_at_ms is None:
        until, retry_after_s = "Ask for a higher budget, or lower max_tokens.", None
    else:
        moment = datetime.fromtimestamp(ends_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        until = f"It starts anew at {moment}. Until then ask for a higher budget, or lower max_tokens."
        retry_after_s = max(1, math.ceil((ends_at_ms - at_ms) / 1000))
    return ApiError(
        429,
        f"{what}, and this request may cost {_usd(cost_nusd)} (its prompt and max_tokens). {until}",
        type_="insufficient_quota",
        code="insufficient_quota",
        retry_after_s=retry_after_s,
        headers=_NOT_AGAIN,
    )


def _usd(amount_nusd: int) -> str:
    """Dollars, exactly, with two decimals at least (as registry.ops.money.usd, which the gateway does not import)."""
    whole, fraction = divmod(amount_nusd, 10**9)
    return f"${whole}.{f'{fraction:09d}'.rstrip('0').ljust(2, '0')}"


def idempotency_key_reused() -> ApiError:
    """422: a request with this Idempotency-Key and another body is in flight."""
    return ApiError(
        422,
        "Another request with this Idempotency-Key and a different body is in flight. "
        "Send a new key with a new request.",
        param="Idempotency-Key",
        code="idempotency_key_reused",
    )


def idempotency_in_flight() -> ApiError:
    """409: this very request is in flight on another gateway process. SDKs ask again by themselves."""
    return ApiError(
        409,
        "A request with this Idempotency-Key is in flight on another gateway process. Ask again when it has ended.",
        type_="conflict_error",
        param="Idempotency-Key",
        code="idempotency_key_in_flight",
        retry_after_s=1,
    )


def worker_failed(message: str) -> ApiError:
    """502: the worker failed and no other could take the request."""
    return ApiError(502, message, type_="server_error", code=WORKER_FAILED, retry_after_s=2)


def provider_error(status: int, kind: str, message: str, retry_after_s: int = 5) -> ApiError:
    """502, 503 or 504: a provider gave no answer; `kind`: misconfigured, unreached, timeout, overloaded or failed.
    What is misconfigured stays so until an operator mends it, and SDKs are told not to repeat the request."""
    code = f"provider_{kind}"
    if kind == "misconfigured":
        return ApiError(status, message, type_="server_error", code=code, headers=_NOT_AGAIN)
    return ApiError(status, message, type_="server_error", code=code, retry_after_s=retry_after_s)


def translation_failed() -> ApiError:
    """502: the worker's answer has no form in the API that was asked (a tool call that is no JSON, for instance)."""
    return ApiError(
        502,
        "The model's answer could not be put into this API's form. Nothing was billed.",
        type_="server_error",
        code=TRANSLATION_FAILED,
    )


def unavailable(message: str, code: str, retry_after_s: int = 2) -> ApiError:
    """503: not now; try again after `retry_after_s` seconds."""
    return ApiError(503, message, type_="server_error", code=code, retry_after_s=retry_after_s)


def model_cold(model: str, left_s: float | None) -> ApiError:
    """503: the model sleeps, and its policy is to send requests away while it starts."""
    retry_after_s, hint = _expected(left_s)
    return unavailable(f"The model `{model}` was asleep and is being started. {hint}", "model_cold", retry_after_s)


def _expected(left_s: float | None) -> tuple[int, str]:
    """After how many seconds to ask again, and that in words; `left_s`: how much longer a start should take."""
    if left_s is None or left_s <= 0:
        return RETRY_S, "It may still be starting: try again."
    retry_after_s = max(1, min(RETRY_MOST_S, math.ceil(left_s)))
    return retry_after_s, f"It is expected in {retry_after_s} s: try again then."


def hold_timed_out(model: str, waited_s: float, left_s: float | None) -> ApiError:
    """504: the model was not ready before the hold's deadline; `left_s`: how much longer it is expected to take."""
    retry_after_s, hint = _expected(left_s)
    return ApiError(
        504,
        f"The model `{model}` was not ready within {waited_s:.0f} s. {hint}",
        type_="server_error",
        code="hold_timeout",
        retry_after_s=retry_after_s,
    )


def internal(request_id: str) -> ApiError:
    """500: a defect of the gateway; the log has the traceback under this request id."""
    return ApiError(
        500,
        f"The gateway failed on this request. Its log says why, under request id {request_id}.",
        type_="server_error",
        code="internal_error",
    )
