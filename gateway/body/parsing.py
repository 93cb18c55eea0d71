"""Reads an inference body and says what it may cost in tokens, before anything is spent on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import orjson

from gateway.body import fields, media, responses_body
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
# OpenAI's own bound.
MAX_EMBEDDINGS = 2048
# Nesting, of what orjson writes (254 levels); it reads 1024.
DEEPEST_WRITTEN = 250

# Fields of SGLang's own API through which a caller could reach other requests, adapters or code in the worker.
ENGINE_FIELDS = frozenset((
    "rid", "extra_key", "cache_salt", "custom_logit_processor", "custom_params", "session_id", "session_params",
    "lora_path", "priority", "data_parallel_rank", "routed_dp_rank", "disagg_prefill_dp_rank",
    "bootstrap_host", "bootstrap_port", "bootstrap_room", "custom_labels",
    # Python's `re`, run on the text so far at every token, in the scheduler that all tenants share: one pattern that
    # backtracks stops the worker.
    "stop_regex",
    # Vectors that take the place of tokens.
    "embed_overrides", "embed_override_token_id", "input_embeds",
))  # fmt: skip


class Endpoint(Enum):
    """The inference endpoints, by path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    MESSAGES = "/v1/messages"
    EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"

    def __init__(self, path: str) -> None:
        # Every request asks for it several times, and Enum's own `value` is a property in Python.
        self.path = path

    def lane(self, of_model: str) -> str:
        """Who speaks to the worker: litellm for its translation of Messages, nobody in between where it has none.

        A provider's models are always asked through it.
        """
        if of_model == "hosted":
            return of_model
        if self is Endpoint.MESSAGES:
            return "litellm"
        return "direct" if self in (Endpoint.EMBEDDINGS, Endpoint.RESPONSES) else of_model

    @property
    def has_providers(self) -> bool:
        """Whether a hosted provider can be asked for it."""
        return self is not Endpoint.RESPONSES


# Which parameters of a key's defaults an endpoint knows (`max_tokens` is not set but bounds: parameters.py).
_SAMPLING = frozenset({"temperature", "top_p"})
_OPENAI = _SAMPLING | {"n", "presence_penalty", "frequency_penalty", "seed"}
_DEFAULTS = {
    Endpoint.CHAT: _OPENAI | {"reasoning_effort"},
    Endpoint.COMPLETIONS: _OPENAI,
    Endpoint.MESSAGES: _SAMPLING,
    Endpoint.EMBEDDINGS: frozenset[str](),
    Endpoint.RESPONSES: _SAMPLING,
}


@dataclass(slots=True)
class InferenceRequest:
    """A checked body. `max_tokens` is None when the client gave none; `choices` counts answers; sizes in bytes.

    `prompts` counts the texts of completions and embeddings."""

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

    @property
    def affinity(self) -> str | None:
        """What requests have in common that should meet the same prefix cache, if they say so."""
        for name in ("prompt_cache_key", "user"):
            value = self.body.get(name)
            if isinstance(value, str) and value:
                return value
        return None

    def prompt_bound(self, context_length: int) -> int:
        """An upper bound of the prompt's tokens, without a tokenizer.

        A token of a byte-level or byte-fallback vocabulary covers at least one byte of UTF-8, and a string's JSON form
        is never shorter than its UTF-8; so the whole body's bytes bound its tokens (role marks are shorter than the
        JSON around each message). Media count as a full context. The worker refuses a prompt longer than its context.
        """
        if self.has_media:
            return self.prompts * context_length
        if self.endpoint is Endpoint.EMBEDDINGS:  # without a template
            return min(self.size_bytes, self.prompts * context_length)
        return min(self.size_bytes + self.prompts * TEMPLATE_TOKENS, self.prompts * context_length)

    def output_bound(self, context_length: int, default_max_tokens: int) -> int:
        """The tokens one answer may have at most: what the client allows, else the model's default."""
        if self.endpoint is Endpoint.EMBEDDINGS:
            return 0
        if self.max_tokens is not None:
            return min(self.max_tokens, context_length)
        if self.endpoint is Endpoint.COMPLETIONS:
            return min(COMPLETIONS_MAX_TOKENS, default_max_tokens)
        return min(default_max_tokens, context_length)


def parse_request(
    endpoint: Endpoint, raw: bytes, defaults: Mapping[str, Any] = MappingProxyType({})
) -> InferenceRequest:
    """Checks what the gateway itself relies on; the worker checks the rest. Raises `ApiError` 400 naming the field.

    `defaults` are set where the request leaves a parameter open that its endpoint knows.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid_request(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid_request("The body must be a JSON object.", code="invalid_json")
    if raw.count(b"[") + raw.count(b"{") > DEEPEST_WRITTEN:
        try:
            # orjson reads deeper nesting than it writes, and what goes to the worker is written anew.
            orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise invalid_request(f"The body cannot be passed on: {error}.", code="invalid_json") from None
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid_request("`model` must be a non-empty string.", "model")
    if not ENGINE_FIELDS.isdisjoint(body):
        for name in sorted(ENGINE_FIELDS & body.keys()):
            if body[name] is not None:
                raise invalid_request(f"`{name}` is reserved for the operator and cannot be set by a request.", name)
    if defaults:
        for name in _DEFAULTS[endpoint] & defaults.keys():
            if body.get(name) is None:
                body[name] = defaults[name]
    stream = fields.boolean(body, "stream")
    options = _stream_options(body)
    has_media = False
    prompts = 1
    if endpoint is Endpoint.COMPLETIONS:
        prompts = fields.texts(body, "prompt")
    elif endpoint is Endpoint.EMBEDDINGS:
        prompts = _embeddings(body)
        stream = False  # the API knows no streams
    elif endpoint is Endpoint.RESPONSES:
        has_media = responses_body.check(body)
    else:
        has_media = _check_messages(body, anthropic=endpoint is Endpoint.MESSAGES)
    choices = fields.integer(body, "n", 1, MAX_CHOICES) or 1
    if endpoint in (Endpoint.MESSAGES, Endpoint.RESPONSES, Endpoint.EMBEDDINGS):
        choices = 1  # These APIs know no `n`; litellm and SGLang drop it
    if choices * prompts > MAX_ANSWERS and endpoint is not Endpoint.EMBEDDINGS:
        raise invalid_request(f"A request may ask for {MAX_ANSWERS} answers at most (prompts times `n`).", "n")
    fields.number(body, "temperature", 0, 2)
    fields.number(body, "top_p", 0, 1)
    fields.array(body, "tools")
    return InferenceRequest(
        endpoint=endpoint,
        body=body,
        size_bytes=len(raw),
        model=model,
        stream=stream,
        wants_usage=fields.boolean(options, "include_usage", "stream_options."),
        wants_running_usage=fields.boolean(options, "continuous_usage_stats", "stream_options."),
        max_tokens=_max_tokens(endpoint, body),
        prompts=prompts,
        choices=choices * prompts,
        has_media=has_media,
    )


def _embeddings(body: dict[str, Any]) -> int:
    """How many vectors are asked for."""
    count = fields.texts(body, "input")
    if count > MAX_EMBEDDINGS:
        raise invalid_request(f"`input` may hold {MAX_EMBEDDINGS} texts at most.", "input")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise invalid_request("`encoding_format` must be `float` or `base64`.", "encoding_format")
    fields.integer(body, "dimensions", 1)
    return count


def _max_tokens(endpoint: Endpoint, body: dict[str, Any]) -> int | None:
    if endpoint is Endpoint.RESPONSES:
        return fields.integer(body, "max_output_tokens", 1)
    plain = fields.integer(body, "max_tokens", 1)
    if endpoint is Endpoint.CHAT:
        newer = fields.integer(body, "max_completion_tokens", 1)
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
