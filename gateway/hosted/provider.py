"""Asks a hosted provider by litellm, with the key in this process' own environment.

Which provider, address and key is the operator's to say, through the registry and the gateway; no client reaches that.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

import httpx
import litellm
import orjson
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

from gateway.body.parsing import Endpoint, InferenceRequest
from gateway.clients.reply import Reply
from gateway.errors import ApiError, invalid_request, provider_error
from gateway.hosted.provider_translation import Provider, ProviderTranslation
from gateway.hosted.readers import EMBEDDERS, READERS, Reader, prompt_bytes
from gateway.hosted.relay import relay
from gateway.hosted.tap import Tap, timeouts
from gateway.workers.stream import usage_json

log = logging.getLogger(__name__)

_OPENAI_BASE = "https://api.openai.com/v1"


def parse(header: bytes) -> Provider:
    """Reads the gateway's header. Raises `ApiError` 502 for a provider that is not known here."""
    try:
        document = orjson.loads(header)
        found = Provider(document["model"], document["api_base"], document["key_env"])
        known = found.name in READERS and found.key_env.endswith("_API_KEY")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        known = False
    if not known or found.key_env.startswith("HYDRANT_"):
        raise provider_error(502, "misconfigured", "This model's provider is not known to the hosted process.")
    return found


async def answer(
    request: InferenceRequest, wanted: Provider, shared: httpx.AsyncBaseTransport, stall_s: float, reply: Reply
) -> None:
    """Answers one request. Raises `ApiError`."""
    key = os.environ.get(wanted.key_env, "")
    if not key:
        log.error("%s is not set: models of %s cannot be asked", wanted.key_env, wanted.name)
        raise provider_error(502, "misconfigured", "The key of this model's provider is not set. Tell the operator.")
    readers = EMBEDDERS if request.endpoint is Endpoint.EMBEDDINGS else READERS
    if wanted.name not in readers:
        raise provider_error(502, "misconfigured", "This model's provider makes no embeddings here. Tell the operator.")
    translation = ProviderTranslation(request, wanted)
    reader = readers[wanted.name](prompt_bytes(translation.body), request.choices, request.prompts)
    tap = Tap(shared, reader if request.stream else None)
    patience = timeouts(stall_s)
    failure = partial(_failure, tap, reader, wanted, key)
    try:
        client = _client(tap, wanted, key, patience, openai=translation.by_openai_client)
        got = await translation.call(client, patience, key)
        if request.stream:
            await relay(translation.provider_events(got, reader), tap, reader, reply, failure)
        else:
            usage = reader.whole(bytes(tap.plain))
            await reply.json(200, translation.whole(got, usage), [(b"x-hydrant-usage", usage_json(usage))])
    except ApiError:
        raise
    except Exception as error:
        # litellm raises its own and its libraries' errors alike; which side failed is known from the tap.
        raise failure(error) from error
    finally:
        await tap.hang_up()


def _client(tap: Tap, wanted: Provider, key: str, patience: httpx.Timeout, *, openai: bool) -> Any:
    """What litellm sends through: OpenAI's client or its own. Neither follows redirects."""
    if not openai:
        return AsyncHTTPHandler(transport=tap, timeout=patience, follow_redirects=False)
    _, _, _, base = litellm.get_llm_provider(model=wanted.model, api_base=wanted.api_base)
    return tap.client(wanted.api_base or base or _OPENAI_BASE, key, patience)


def _failure(tap: Tap, reader: Reader, wanted: Provider, key: str, error: Exception | None = None) -> ApiError:
    """What the gateway is told. Keys, and what providers say of them, stay in this process."""
    if tap.trouble is not None:
        log.warning("%s broke off or was not reached", wanted.model)
        if tap.timed_out:
            return provider_error(504, "timeout", "The model's provider did not answer in time.")
        return provider_error(502, "unreached", "The model's provider could not be reached, or broke off.")
    if tap.status is not None and tap.status != 200:
        return _refusal(tap, wanted, key)
    if not tap.called and error is not None:
        # litellm goes on with advice on its own settings.
        reason = str(error).replace(key, "...").partition(" To drop ")[0][:500]
        return invalid_request(f"The model's provider cannot be asked this: {reason}")
    if reader.error is not None:
        kind = reader.error.get("type") if isinstance(reader.error, dict) else None
        log.warning("%s reported an error in its stream: %s", wanted.model, str(kind)[:80])
    elif error is not None:
        log.warning("an answer of %s could not be used: %s", wanted.model, type(error).__name__)
    return provider_error(502, "failed", "The model's provider gave no finished answer.")


def _refusal(tap: Tap, wanted: Provider, key: str) -> ApiError:
    """An answer of the provider other than 200."""
    status, said = tap.status or 0, _message(bytes(tap.plain))
    if status in (400, 413, 422):
        return ApiError(status, said.replace(key, "..."), code="provider_refused")
    log.error("%s answered %d: %s", wanted.model, status, said.replace(key, "...")[:300])
    if status in (401, 402, 403, 404):
        return provider_error(
            502, "misconfigured", "The model's provider refused the operator's key or model name. Tell the operator."
        )
    if status in (429, 503, 529):
        return provider_error(
            503, "overloaded", "The model's provider takes no more requests now.", _retry_after_s(tap.headers)
        )
    return provider_error(502, "failed", f"The model's provider failed (status {status}).")


def _retry_after_s(headers: httpx.Headers) -> int:
    text = headers.get("retry-after", "")
    return min(600, max(1, int(text))) if text.isdecimal() and len(text) < 10 else 5


def _message(body: bytes) -> str:
    """What providers' error bodies say: `{"error": {"message"}}`, also in a list, `{"message"}`."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "The provider refused the request."
    first = document[0] if isinstance(document, list) and document else document
    nested = first.get("error", first) if isinstance(first, dict) else None
    message = nested.get("message") if isinstance(nested, dict) else nested
    return message[:2000] if isinstance(message, str) else "The provider refused the request."
