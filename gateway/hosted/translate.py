"""Calls litellm for one request, and writes OpenAI's or Anthropic's form of what comes back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import litellm
import orjson
from litellm.llms.anthropic.pass_through.adapters.transformation import AnthropicAdapter

from gateway.body.parsing import Endpoint
from gateway.hosted.tap import Tap
from gateway.workers.stream import OpenAIStream

# Only these become litellm's own arguments. Everything else of a body goes to the worker untouched, so that no caller
# can set litellm's switches (api_base, mock_response, fallbacks, ...). Not `reasoning_effort`: litellm refuses it for
# servers that it does not know, and makes it of Anthropic's `thinking`; SGLang understands it.
_OPENAI_PARAMETERS = frozenset({
    "temperature", "top_p", "n", "stop", "max_tokens", "presence_penalty", "frequency_penalty", "logit_bias",
    "logprobs", "top_logprobs", "seed", "response_format", "tools", "tool_choice", "parallel_tool_calls", "user",
    "stream", "suffix", "echo",
})  # fmt: skip
_ANTHROPIC_PARAMETERS = (
    "messages", "max_tokens", "system", "stop_sequences", "temperature", "top_p", "top_k", "tools", "tool_choice",
    "thinking", "output_format",
)  # fmt: skip
_STREAM_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}
# litellm's names for a generic server that speaks OpenAI's protocol; others change parameters by a model's name.
_CHAT_PROVIDER = "custom_openai"
_TEXT_PROVIDER = "text-completion-openai"


class Translation:
    """One request on its way through litellm. `body` is the client's, checked and bounded by the gateway."""

    def __init__(self, endpoint: Endpoint, body: dict[str, Any]) -> None:
        self._endpoint = endpoint
        self._model: str = body["model"]
        self._stream = bool(body.get("stream"))
        self._tool_names: dict[str, str] = {}
        self._body = self._from_anthropic(body) if endpoint is Endpoint.MESSAGES else dict(body)

    async def call(self, client: Any, patience: httpx.Timeout) -> Any:
        """litellm's answer: an object, or an async iterator of chunks. Raises whatever litellm raises."""
        body = self._body
        arguments = {name: body[name] for name in body.keys() & _OPENAI_PARAMETERS if body[name] is not None}
        known = _OPENAI_PARAMETERS | {"model", "messages", "prompt", "stream_options"}
        arguments["extra_body"] = {name: value for name, value in body.items() if name not in known}
        if self._stream:
            arguments["stream_options"] = _STREAM_OPTIONS
        common = {"client": client, "timeout": patience, "max_retries": 0, "num_retries": 0, "no-log": True}
        if self._endpoint is Endpoint.COMPLETIONS:
            model = f"{_TEXT_PROVIDER}/{self._model}"
            return await litellm.atext_completion(model=model, prompt=body["prompt"], **arguments, **common)
        model = f"{_CHAT_PROVIDER}/{self._model}"
        # With tools, litellm would look for an MCP gateway first, and import a library that nobody here needs.
        common["_skip_mcp_handler"] = True
        return await litellm.acompletion(model=model, messages=body["messages"], **arguments, **common)

    def plain(self, answer: Any) -> bytes:
        """A whole answer's body."""
        if self._endpoint is Endpoint.MESSAGES:
            message: Any = AnthropicAdapter().translate_completion_output_params(answer, self._tool_names)
            return orjson.dumps(dict(message) | {"model": self._model})
        document = answer.model_dump(exclude_none=True, exclude_unset=True)
        return orjson.dumps(document | {"model": self._model})

    async def events(self, answer: Any, tap: Tap) -> AsyncIterator[bytes]:
        """A stream's events, each whole, up to its end mark."""
        if self._endpoint is Endpoint.MESSAGES:
            async for event in self.anthropic_events(answer):
                yield event
            return
        async for chunk in answer:
            document = chunk.model_dump(exclude_none=True, exclude_unset=True) | {"model": self._model}
            if document.get("usage") is not None:
                assert isinstance(tap.reader, OpenAIStream)
                document["choices"] = []
                document["usage"] |= tap.reader.usage.totals()
            yield b"data: " + orjson.dumps(document) + b"\n\n"
        yield b"data: [DONE]\n\n"

    async def anthropic_events(self, answer: Any) -> AsyncIterator[bytes]:
        """A Messages stream's events, from litellm's chunks."""
        stream: Any = AnthropicAdapter().translate_completion_output_params_streaming(
            answer, self._model, tool_name_mapping=self._tool_names
        )
        async for event in stream:
            yield event

    def _from_anthropic(self, body: dict[str, Any]) -> dict[str, Any]:
        """The same request in OpenAI's form. Raises what litellm raises for content it cannot translate."""
        given = {name: body[name] for name in _ANTHROPIC_PARAMETERS if body.get(name) is not None}
        translated: Any
        translated, self._tool_names = AnthropicAdapter().translate_completion_input_params_with_tool_mapping(
            given | {"model": self._model}, custom_llm_provider=_CHAT_PROVIDER
        )
        out = dict(translated) | {"model": self._model, "stream": self._stream}
        if "cache_salt" in body:
            out["cache_salt"] = body["cache_salt"]
        return out


def quiet_litellm() -> None:
    """No telemetry, no advice on the console, no callbacks, and of its log no more than warnings, by this process' own
    handler: this process only translates."""
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    litellm.callbacks = []
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()
