"""Reads an inference body and says what it may cost in tokens, before anything is spent on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from gateway import media
from gateway.errors import invalid_request

# A chat template adds its own text (a default system prompt, role marks); this many tokens are allowed for it.
TEMPLATE_TOKENS = 256
# Providers add more of their own: Anthropic several hundred tokens where a request has tools.
PROVIDER_TEMPLATE_TOKENS = 1024
# OpenAI's default for the legacy endpoint.
COMPLETIONS_MAX_TOKENS = 16
MAX_CHOICES = 128
# Of one request: `n` answers to each of several prompts. SGLang would take any number and start them all.
MAX_ANSWERS = 256

# Fields of SGLang's own API through which a caller could reach other requests, adapters or code in the worker.
_ENGINE_FIELDS = (
    "rid", "extra_key", "cache_salt", "custom_logit_processor", "custom_params", "session_id", "session_params",
    "lora_path", "priority", "data_parallel_rank", "routed_dp_rank", "disagg_prefill_dp_rank",
    "bootstrap_host", "bootstrap_port", "bootstrap_room", "custom_labels",
    # Python's `re`, run on the text so far at every token, in the scheduler that all tenants share: one pattern that
    # backtracks stops the worker.
    "stop_regex",
)  # fmt: skip


class Endpoint(Enum):
    """The inference endpoints, by path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    MESSAGES = "/v1/messages"


@dataclass(slots=True)
class InferenceRequest:
    """A checked body. `max_tokens` is None when the client gave none; `choices` counts answers; sizes in bytes."""

    endpoint: Endpoint
    body: dict[str, Any]
    size_bytes: int
    model: str
    stream: bool
    wants_usage: bool
    wants_running_usage: bool
    max_tokens: int | None
    prompts: int
    choices: int
    has_media: bool

    def prompt_bound(self, context_length: int) -> int:
        """An upper bound of the prompt's tokens, without a tokenizer.

        A token of a byte-level or byte-fallback vocabulary covers at least one byte of UTF-8, and a string's JSON form
        is never shorter than its UTF-8; so the whole body's bytes bound its tokens (role marks are shorter than the
        JSON around each message). Media count as a full context. The worker refuses a prompt longer than its context.
        """
        if self.has_media:
            return self.prompts * context_length
        return min(self.size_bytes + self.prompts * TEMPLATE_TOKENS, self.prompts * context_length)

    def output_bound(self, context_length: int, default_max_tokens: int) -> int:
        """The tokens one answer may have at most: what the client allows, else the model's default."""
        if self.max_tokens is not None:
            return min(self.max_tokens, context_length)
        if self.endpoint is Endpoint.COMPLETIONS:
            return min(COMPLETIONS_MAX_TOKENS, default_max_tokens)
        return min(default_max_tokens, context_length)


def parse_request(endpoint: Endpoint, raw: bytes) -> InferenceRequest:
    """Checks what the gateway itself relies on; the worker checks the rest. Raises `ApiError` 400 naming the field."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid_request(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid_request("The body must be a JSON object.", code="invalid_json")
    try:
        # orjson reads deeper nesting than it writes, and what goes to the worker is written anew.
        orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise invalid_request(f"The body cannot be passed on: {error}.", code="invalid_json") from None
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid_request("`model` must be a non-empty string.", "model")
    for name in _ENGINE_FIELDS:
        if body.get(name) is not None:
            raise invalid_request(f"`{name}` is reserved for the operator and cannot be set by a request.", name)
    stream = _boolean(body, "stream")
    options = _stream_options(body)
    has_media = False
    prompts = 1
    if endpoint is Endpoint.COMPLETIONS:
        prompts = _count_prompts(body)
    else:
        has_media = _check_messages(body, anthropic=endpoint is Endpoint.MESSAGES)
    choices = _integer(body, "n", 1, MAX_CHOICES) or 1
    if endpoint is Endpoint.MESSAGES:
        choices = 1  # Anthropic's API knows no `n`, and litellm drops it
    if choices * prompts > MAX_ANSWERS:
        raise invalid_request(f"A request may ask for {MAX_ANSWERS} answers at most (prompts times `n`).", "n")
    _number(body, "temperature", 0, 2)
    _number(body, "top_p", 0, 1)
    _list(body, "tools")
    return InferenceRequest(
        endpoint=endpoint,
        body=body,
        size_bytes=len(raw),
        model=model,
        stream=stream,
        wants_usage=_boolean(options, "include_usage", "stream_options."),
        wants_running_usage=_boolean(options, "continuous_usage_stats", "stream_options."),
        max_tokens=_max_tokens(endpoint, body),
        prompts=prompts,
        choices=choices * prompts,
        has_media=has_media,
    )


def _max_tokens(endpoint: Endpoint, body: dict[str, Any]) -> int | None:
    plain = _integer(body, "max_tokens", 1)
    if endpoint is Endpoint.CHAT:
        newer = _integer(body, "max_completion_tokens", 1)
        return plain if newer is None else newer
    if endpoint is Endpoint.MESSAGES and plain is None:
        raise invalid_request("`max_tokens` is required.", "max_tokens")
    return plain


def _stream_options(body: dict[str, Any]) -> dict[str, Any]:
    options = body.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise invalid_request("`stream_options` must be an object.", "stream_options")
    return options


def _check_messages(body: dict[str, Any], *, anthropic: bool) -> bool:
    """Whether a message carries media. Raises `ApiError` for a wrong shape or for media by remote URL."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid_request("`messages` must be a non-empty list.", "messages")
    if anthropic:
        media.check_system(body.get("system"))
    check = media.anthropic_message if anthropic else media.openai_message
    # Every message is checked, also after the first one with media.
    return sum([check(message, f"messages[{position}]") for position, message in enumerate(messages)]) > 0


def _count_prompts(body: dict[str, Any]) -> int:
    """How many prompts a completion body holds: a string or token list is one, a list of them several."""
    prompt = body.get("prompt")
    if isinstance(prompt, str) and prompt:
        return 1
    if isinstance(prompt, list) and prompt:
        if all(type(item) is int for item in prompt):
            return 1
        if all(isinstance(item, str) and item for item in prompt):
            return len(prompt)
        if all(isinstance(item, list) and item and all(type(token) is int for token in item) for item in prompt):
            return len(prompt)
    raise invalid_request("`prompt` must be a non-empty string, list of strings, or list of token ids.", "prompt")


def _boolean(body: dict[str, Any], name: str, prefix: str = "") -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid_request(f"`{prefix}{name}` must be true or false.", prefix + name)
    return bool(value)


def _integer(body: dict[str, Any], name: str, low: int, high: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise invalid_request(f"`{name}` must be a whole number, {bounds}.", name)
    return value


def _number(body: dict[str, Any], name: str, low: float, high: float) -> None:
    value = body.get(name)
    if value is not None and (type(value) not in (int, float) or not low <= value <= high):
        raise invalid_request(f"`{name}` must be a number from {low} to {high}.", name)


def _list(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        raise invalid_request(f"`{name}` must be a list.", name)
