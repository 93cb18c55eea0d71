"""A request as litellm asks it of a provider, and the provider's answer as the client's API has it."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import litellm
import orjson

from gateway.accounting.attempts import Usage
from gateway.body.parsing import Endpoint, InferenceRequest
from gateway.errors import invalid_request
from gateway.hosted.readers import Reader
from gateway.hosted.translate import Translation
from gateway.workers.stream import usage_document

# What becomes an argument of litellm. Anything else is refused: it would reach litellm's own switches, or cost the
# operator more than tokens (a service tier, a provider's own tools).
_SAMPLING = frozenset({
    "temperature", "top_p", "n", "stop", "max_tokens", "presence_penalty", "frequency_penalty", "logit_bias", "seed",
})  # fmt: skip
_CHAT = _SAMPLING | {
    "logprobs", "top_logprobs", "response_format", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort",
}  # fmt: skip
_TEXT = _SAMPLING | {"logprobs", "echo", "suffix"}
_EMBEDDINGS = frozenset({"dimensions"})
# Handled here, or of no meaning to a provider (`user` would tell it who our clients are).
_LEFT_OUT = frozenset({"model", "stream", "stream_options", "user"})
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


class ProviderTranslation(Translation):
    """One request on its way to a provider. Raises `ApiError` 400 for what is not passed on."""

    def __init__(self, request: InferenceRequest, asked: Provider) -> None:
        endpoint, body = request.endpoint, request.body
        self._asked = asked
        self._parameters = _CHAT
        if endpoint is Endpoint.CHAT:
            _refuse_others(body, _CHAT | {"messages", "max_completion_tokens"})
            body = _checked_chat(body)
        elif endpoint is Endpoint.COMPLETIONS:
            self._parameters = _TEXT if self.completes else _SAMPLING
            _refuse_others(body, self._parameters | {"prompt"})
            body = body | {"prompt": self._checked_prompt(body["prompt"])}
        elif endpoint is Endpoint.EMBEDDINGS:
            self._parameters = _EMBEDDINGS
            _refuse_others(body, _EMBEDDINGS | {"input", "encoding_format"})
            if not _is_text(body["input"]) and asked.name != "openai":
                raise invalid_request("Token ids are passed on to OpenAI's own API only; send texts.", "input")
        _refuse_tools(body)
        try:
            super().__init__(endpoint, body)
        except Exception as error:
            raise invalid_request(f"The request has no OpenAI form: {str(error)[:500]}") from error

    @property
    def body(self) -> dict[str, Any]:
        """The request in OpenAI's form."""
        return self._body

    @property
    def completes(self) -> bool:
        """Whether the provider has an API of its own for text completions (by litellm's choice); else a prompt is
        asked as a user's message."""
        model = self._asked.model.split("/", 1)[1]
        if self._asked.name == "openai":
            return model not in litellm.open_ai_chat_completion_models
        return self._asked.name == "together_ai"

    @property
    def by_openai_client(self) -> bool:
        """Whether litellm sends it through OpenAI's client: all of OpenAI's, and what it has no code of its own for."""
        if self._endpoint is Endpoint.EMBEDDINGS:
            return self._asked.name != "openrouter"
        return self._asked.name == "openai" or (self._endpoint is Endpoint.COMPLETIONS and self.completes)

    async def call(self, client: Any, patience: httpx.Timeout, key: str = "") -> Any:
        """litellm's answer: an object, or an async iterator of chunks. Raises whatever litellm raises."""
        body = self._body
        arguments: dict[str, Any] = {name: body[name] for name in self._parameters & body.keys()}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        arguments |= {
            "model": self._asked.model, "api_key": key, "api_base": self._asked.api_base, "client": client,
            "timeout": patience, "max_retries": 0, "num_retries": 0, "no-log": True,
        }  # fmt: skip
        if self._endpoint is Endpoint.EMBEDDINGS:
            # Always as numbers, since not all know base64. Which models know `dimensions` is theirs to say.
            allowed = {"encoding_format": "float", "allowed_openai_params": ["dimensions", "encoding_format"]}
            return await litellm.aembedding(input=body["input"], **arguments, **allowed)
        if self._stream:
            arguments |= {"stream": True, "stream_options": {"include_usage": True}}
        arguments["_skip_mcp_handler"] = True
        if self._endpoint is Endpoint.COMPLETIONS:
            return await litellm.atext_completion(prompt=body["prompt"], **arguments)
        return await litellm.acompletion(messages=body["messages"], **arguments)

    def whole(self, answer: Any, usage: Usage) -> bytes:
        """A whole answer's body, with the provider's own usage."""
        if self._endpoint is Endpoint.MESSAGES:
            return self.plain(answer)
        if self._endpoint is Endpoint.EMBEDDINGS:
            return self._vectors(answer, usage)
        return orjson.dumps(orjson.loads(self.plain(answer)) | {"usage": usage_document(usage)})

    async def provider_events(self, answer: Any, reader: Reader) -> AsyncIterator[bytes]:
        """A stream's events up to its end mark; the last but one has the provider's own usage."""
        if self._endpoint is Endpoint.MESSAGES:
            async for event in self.anthropic_events(answer):
                yield event
            return
        texts = self._endpoint is Endpoint.COMPLETIONS
        head: dict[str, Any] = {"id": "", "created": 0}
        async for chunk in answer:
            document = chunk.model_dump(exclude_none=True, exclude_unset=True) | {"model": self._model}
            document.pop("usage", None)
            head = {name: document.get(name, value) for name, value in head.items()}
            if texts:
                document["choices"] = [_text_choice(choice) for choice in document["choices"] if _says_more(choice)]
            if document.get("choices"):
                yield b"data: " + orjson.dumps(document) + b"\n\n"
        kind = "text_completion" if texts else "chat.completion.chunk"
        last = {"object": kind, "model": self._model, "choices": [], "usage": usage_document(reader.usage)}
        yield b"data: " + orjson.dumps(head | last) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _checked_prompt(self, prompt: Any) -> Any:
        if self._asked.name == "openai" and self.completes:
            return prompt
        texts = [prompt] if isinstance(prompt, str) else prompt
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise invalid_request("This model's provider takes one text at a time, and no token ids.", "prompt")
        return texts[0]

    def _vectors(self, answer: Any, usage: Usage) -> bytes:
        in_base64 = self._body.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": position,
                "embedding": _base64(vector["embedding"]) if in_base64 else vector["embedding"],
            }
            for position, vector in enumerate(sorted(answer.data, key=lambda vector: int(vector["index"])))
        ]
        counts = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
        return orjson.dumps({"object": "list", "data": data, "model": self._model, "usage": counts})


def _base64(vector: list[float]) -> str:
    """As OpenAI sends it: little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _refuse_others(body: dict[str, Any], known: frozenset[str]) -> None:
    for name in sorted(body.keys() - known - _LEFT_OUT):
        if body[name] is not None:
            raise invalid_request(f"`{name}` is not passed on to this model's provider; leave it out.", name)


def _refuse_tools(body: dict[str, Any]) -> None:
    """A provider's own tools (search, code, ...) cost the operator more than tokens."""
    for tool in body.get("tools") or ():
        if not isinstance(tool, dict) or tool.get("type") not in (None, "function", "custom"):
            raise invalid_request("`tools` may hold functions only: providers' own tools are not passed on.", "tools")


def _checked_chat(body: dict[str, Any]) -> dict[str, Any]:
    """A chat body of what may be passed on."""
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


def _is_text(given: Any) -> bool:
    return isinstance(given, str) or isinstance(given[0], str)


def _says_more(choice: dict[str, Any]) -> bool:
    return bool(choice.get("text")) or choice.get("finish_reason") is not None


def _text_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """As OpenAI sends it: what says nothing is empty, not missing."""
    return {"text": "", "finish_reason": None, "logprobs": None} | choice
