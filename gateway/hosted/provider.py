"""Asks a hosted provider by litellm, with the key in this process' own environment.

Which provider, address and key is the operator's to say, through the registry and the gateway; no client reaches that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import litellm
import orjson
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

from gateway.errors import ApiError, invalid_request, provider_error
from gateway.hosted.readers import READERS, Reader, prompt_bytes
from gateway.hosted.relay import relay
from gateway.hosted.tap import Tap, timeouts
from gateway.hosted.translate import Translation
from gateway.parsing import Endpoint, InferenceRequest
from gateway.reply import Reply
from gateway.stream import usage_document, usage_json

log = logging.getLogger(__name__)

_OPENAI_BASE = "https://api.openai.com/v1"
# What becomes an argument of litellm. Anything else is refused: it would reach litellm's own switches, or cost the
# operator more than tokens (a service tier, a provider's own tools).
_PARAMETERS = frozenset({
    "temperature", "top_p", "n", "stop", "max_tokens", "presence_penalty", "frequency_penalty", "logit_bias",
    "logprobs", "top_logprobs", "seed", "response_format", "tools", "tool_choice", "parallel_tool_calls",
    "reasoning_effort",
})  # fmt: skip
# Handled here, or of no meaning to a provider (`user` would tell it who our clients are).
_LEFT_OUT = frozenset({"model", "messages", "stream", "stream_options", "user", "max_completion_tokens"})
_MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
# litellm would fetch what other parts name by id or address.
_PARTS = ("text", "image_url", "input_audio")


@dataclass(frozen=True, slots=True)
class Provider:
    """`model` is litellm's name, `api_base` None for the provider's own address."""

    model: str
    api_base: str | None
    key_env: str

    @property
    def name(self) -> str:
        """openai, anthropic, ..."""
        return self.model.split("/", 1)[0]


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
    translation = ProviderTranslation(request.endpoint, request.body, wanted)
    reader = READERS[wanted.name](prompt_bytes(translation.body), request.choices)
    tap = Tap(shared, reader if request.stream else None)
    patience = timeouts(stall_s)
    failure = partial(_failure, tap, reader, wanted, key)
    try:
        got = await translation.call(_client(tap, wanted, key, patience), patience, key)
        if request.stream:
            await relay(translation.provider_events(got, reader), tap, reader, reply, failure)
        else:
            usage = reader.whole(bytes(tap.plain))
            await reply.json(
                200, translation.whole(got, usage_document(usage)), [(b"x-hydrant-usage", usage_json(usage))]
            )
    except ApiError:
        raise
    except Exception as error:
        # litellm raises its own and its libraries' errors alike; which side failed is known from the tap.
        raise failure(error) from error
    finally:
        await tap.hang_up()


class ProviderTranslation(Translation):
    """One request on its way to a provider. Raises `ApiError` 400 for what is not passed on."""

    def __init__(self, endpoint: Endpoint, body: dict[str, Any], provider: Provider) -> None:
        if endpoint is Endpoint.CHAT:
            body = _checked(body)
        self._refuse_tools(body)
        try:
            super().__init__(endpoint, body)
        except Exception as error:
            raise invalid_request(f"The request has no OpenAI form: {str(error)[:500]}") from error
        self._provider = provider

    @property
    def body(self) -> dict[str, Any]:
        """The request in OpenAI's form."""
        return self._body

    async def call(self, client: Any, patience: httpx.Timeout, key: str = "") -> Any:
        """litellm's answer: an object, or an async iterator of chunks. Raises whatever litellm raises."""
        body = self._body
        arguments = {name: body[name] for name in body.keys() & _PARAMETERS if body[name] is not None}
        if self._stream:
            arguments |= {"stream": True, "stream_options": {"include_usage": True}}
        quiet = {"max_retries": 0, "num_retries": 0, "no-log": True, "_skip_mcp_handler": True}
        return await litellm.acompletion(
            model=self._provider.model, messages=body["messages"], api_key=key, api_base=self._provider.api_base,
            client=client, timeout=patience, **arguments, **quiet,
        )  # fmt: skip

    def whole(self, answer: Any, usage: dict[str, Any]) -> bytes:
        """A whole answer's body, with the provider's own usage."""
        if self._endpoint is Endpoint.MESSAGES:
            return self.plain(answer)
        return orjson.dumps(orjson.loads(self.plain(answer)) | {"usage": usage})

    async def provider_events(self, answer: Any, reader: Reader) -> AsyncIterator[bytes]:
        """A stream's events up to its end mark; the last but one has the provider's own usage."""
        if self._endpoint is Endpoint.MESSAGES:
            async for event in self.anthropic_events(answer):
                yield event
            return
        head: dict[str, Any] = {"id": "", "created": 0}
        async for chunk in answer:
            document = chunk.model_dump(exclude_none=True, exclude_unset=True) | {"model": self._model}
            document.pop("usage", None)
            head = {name: document.get(name, value) for name, value in head.items()}
            if document.get("choices"):
                yield b"data: " + orjson.dumps(document) + b"\n\n"
        last = {"object": "chat.completion.chunk", "model": self._model, "choices": []}
        yield b"data: " + orjson.dumps(head | last | {"usage": usage_document(reader.usage)}) + b"\n\n"
        yield b"data: [DONE]\n\n"

    @staticmethod
    def _refuse_tools(body: dict[str, Any]) -> None:
        """A provider's own tools (search, code, ...) cost the operator more than tokens."""
        for tool in body.get("tools") or ():
            if not isinstance(tool, dict) or tool.get("type") not in (None, "function", "custom"):
                raise invalid_request(
                    "`tools` may hold functions only: providers' own tools are not passed on.", "tools"
                )


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """A chat body of what may be passed on."""
    for name in sorted(body.keys() - _PARAMETERS - _LEFT_OUT):
        if body[name] is not None:
            raise invalid_request(f"`{name}` is not passed on to this model's provider; leave it out.", name)
    for tool in body.get("tools") or ():
        if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
            raise invalid_request("`tools` must hold objects with a `function`.", "tools")
    messages = []
    for position, message in enumerate(body["messages"]):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type") not in _PARTS:
                kind = str(part.get("type"))[:40]
                raise invalid_request(f"Parts of type `{kind}` are not passed on to this model's provider.", "messages")
        messages.append({name: message[name] for name in _MESSAGE_FIELDS if message.get(name) is not None})
        if "content" in message and content is None:
            messages[position]["content"] = None
    return body | {"messages": messages}


def _client(tap: Tap, wanted: Provider, key: str, patience: httpx.Timeout) -> Any:
    """What litellm sends through: OpenAI's client for OpenAI, its own for all others. Neither follows redirects."""
    if wanted.name != "openai":
        return AsyncHTTPHandler(transport=tap, timeout=patience, follow_redirects=False)
    return tap.client(wanted.api_base or _OPENAI_BASE, key, patience)


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
        return invalid_request(f"The model's provider cannot be asked this: {str(error).replace(key, '...')[:500]}")
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
