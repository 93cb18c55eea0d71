"""What the gateway needs of SGLang's `/v1/responses`, and SGLang 0.5.23 does not do.

That is running usage, refusals that are told apart from failures, and all the tokens that were asked for:
docs/adr/0013-responses.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from engine.sglang_plugin import signals

TAKEN_FROM_BOUND = 2
"""SGLang takes so many tokens from `max_output_tokens`, so that of a bound of two no token would be left."""


class Watched:
    """Passes the engine's outputs on. `usage`: the newest one's, `{}` before the first; `error`: what ended them."""

    def __init__(self, outputs: AsyncIterator[Any]) -> None:
        self.usage: dict[str, Any] = {}
        self.error: Exception | None = None
        self._outputs = outputs

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for context in self._outputs:
                self.usage = _usage(context.last_output["meta_info"])
                yield context
        except Exception as error:
            self.error = error
            raise


async def tell_running_usage(
    original: Callable[..., AsyncIterator[str]],
    serving: Any,
    request: Any,
    sampling_params: Any,
    outputs: AsyncIterator[Any],
    *args: Any,
    **kwargs: Any,
) -> AsyncIterator[str]:
    """The stream's events, and before those that carry more tokens a comment `: hydrant-usage {...}`.

    A request that is refused before it has begun ends in a chat stream's error, with its status 400: in this API SGLang
    would call it a failure of the server.
    """
    if not os.environ.get(signals.EVENTS_VARIABLE):
        async for event in original(serving, request, sampling_params, outputs, *args, **kwargs):
            yield event
        return
    watched = Watched(outputs)
    told: dict[str, Any] = {}
    async for event in original(serving, request, sampling_params, watched, *args, **kwargs):
        if isinstance(watched.error, ValueError) and not watched.usage:
            refusal = {"message": str(watched.error), "type": "invalid_request_error", "param": None, "code": 400}
            yield f"event: error\ndata: {json.dumps({'error': refusal})}\n\n"
            return
        if watched.usage != told:
            told = watched.usage
            yield f": hydrant-usage {json.dumps(told)}\n\n"
        yield event


def _usage(meta: dict[str, Any]) -> dict[str, Any]:
    """A chat chunk's `usage`, of an engine output's counts."""
    return {
        "prompt_tokens": meta["prompt_tokens"],
        "completion_tokens": meta["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": meta.get("cached_tokens", 0)},
    }


async def tell_failures_apart(original: Callable[..., Any], serving: Any, *args: Any, **kwargs: Any) -> Any:
    """The whole answer. What the engine raises but for a refusal is answered 500 or its own status, which SGLang would
    call the request's fault (400)."""
    try:
        return await original(serving, *args, **kwargs)
    except Exception as error:  # noqa: BLE001 (whatever it is, it becomes an answer)
        status = getattr(error, "status_code", 500)
        return serving.create_error_response(str(error), err_type="server_error", status_code=status)


def all_tokens(sampling: dict[str, Any], request: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The sampling parameters with `max_output_tokens` as it was asked for."""
    if request.max_output_tokens is not None:
        sampling["max_new_tokens"] += TAKEN_FROM_BOUND
    return sampling
