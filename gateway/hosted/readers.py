"""Reads providers' own answers, below litellm: are they finished, and what did they use. Pure: bytes in, figures out.

One reader for each protocol. litellm estimates usage where it finds none, and invents a finish reason when a stream
just ends; bills and the word "finished" come from here.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.accounting.attempts import Usage
from gateway.workers.stream import read_usage

# Bytes of prompt text for a token, where a provider does not tell before the end: few texts have fewer.
BYTES_PER_TOKEN = 4
# No event of a provider is longer; it would only fill memory.
MAX_EVENT_BYTES = 16 * 1024 * 1024
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError)


class Reader:
    """Follows one answer. `finished`: it is whole. `failed`: the provider reported an error (`error`, its object).

    `prompt_bytes` is the text of the request's messages; `choices` answers were asked for, in all, to `prompts` texts.
    """

    def __init__(self, prompt_bytes: int, choices: int = 1, prompts: int = 1) -> None:
        self.failed = False
        self.error: object = None
        self._prompt_guess = prompt_bytes // BYTES_PER_TOKEN
        self._choices = choices
        self._prompts = prompts
        self._told: Usage | None = None
        self._told_all = False
        # Parts of the answer so far: each holds a token at least.
        self._parts = 0
        self._pending = b""

    @property
    def finished(self) -> bool:
        """Whether the answer is whole."""
        raise NotImplementedError

    @property
    def usage(self) -> Usage:
        """The provider's own figures once it has told all of them; before, its figures so far and our lower bounds."""
        if self._told is not None and self._told_all:
            return self._told
        if not self._parts and self._told is None:
            return Usage()
        told = self._told or Usage(self._prompt_guess)
        return Usage(told.prompt_tokens, told.cached_tokens, max(told.completion_tokens, self._parts), True)

    def feed(self, data: bytes) -> None:
        """Takes a part of a stream as it comes."""
        self._pending += data.replace(b"\r", b"")
        *events, self._pending = self._pending.split(b"\n\n")
        if len(self._pending) > MAX_EVENT_BYTES:
            self.failed, self._pending = True, b""
        for event in events:
            if self.failed:
                return
            try:
                self._event(event)
            except _MALFORMED:
                self.failed = True

    def whole(self, body: bytes) -> Usage:
        """The usage of a whole answer. Raises ValueError when it is not a finished one with its usage."""
        try:
            self._document(orjson.loads(body))
        except _MALFORMED as error:
            raise ValueError("the answer is not a completion") from error
        if self.failed or not self.finished or self._told is None:
            raise ValueError("the answer was not finished")
        return self._told

    def _event(self, event: bytes) -> None:
        data = b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if data and data != b"[DONE]":
            document = orjson.loads(data)
            if document.get("error"):
                self.failed, self.error = True, document["error"]
            else:
                self._document(document)

    def _document(self, document: dict[str, Any]) -> None:
        """Takes an event's, or a whole answer's, document."""
        raise NotImplementedError


class OpenAIReader(Reader):
    """OpenAI's protocol: usage comes once, at the end."""

    def __init__(self, prompt_bytes: int, choices: int = 1, prompts: int = 1) -> None:
        super().__init__(prompt_bytes, choices, prompts)
        self._begun: set[int] = set()
        self._reasons: set[int] = set()

    @property
    def finished(self) -> bool:
        # Not every provider knows `n`: one that gives each prompt fewer answers tells its usage after the last of them.
        least = self._prompts if self._told_all else self._choices
        return len(self._reasons) >= least and self._reasons >= self._begun and not self.failed

    def _document(self, document: dict[str, Any]) -> None:
        for choice in document.get("choices") or ():
            self._begun.add(choice.get("index", 0))
            if choice.get("finish_reason") is not None:
                self._reasons.add(choice.get("index", 0))
            said = (choice.get("delta") or {}) | {"text": choice.get("text")}
            if any(value for name, value in said.items() if name != "role"):
                self._parts += 1
        if document.get("usage") is not None:
            self._told, self._told_all = read_usage(document["usage"]), True


class EmbeddingsReader(Reader):
    """OpenAI's embeddings: whole answers with a vector for each text."""

    def __init__(self, prompt_bytes: int, choices: int = 1, prompts: int = 1) -> None:
        super().__init__(prompt_bytes, choices, prompts)
        self._vectors = 0

    @property
    def finished(self) -> bool:
        return self._vectors == self._choices and not self.failed

    def _document(self, document: dict[str, Any]) -> None:
        self._vectors = sum(1 for vector in document["data"] if isinstance(vector["embedding"], list))
        self._told, self._told_all = Usage(_count(document["usage"], "prompt_tokens")), True


class AnthropicReader(Reader):
    """Anthropic's Messages: the prompt is told at the beginning, the answer at the end."""

    def __init__(self, prompt_bytes: int, choices: int = 1, prompts: int = 1) -> None:
        super().__init__(prompt_bytes, choices, prompts)
        self._reason: str | None = None
        self._stopped = False

    @property
    def finished(self) -> bool:
        return self._stopped and self._reason is not None and not self.failed

    def _document(self, document: dict[str, Any]) -> None:
        kind = document["type"]
        if kind == "message_start":
            self._tell(document["message"]["usage"])
        elif kind == "content_block_delta":
            self._parts += 1
        elif kind == "message_delta":
            self._reason = document["delta"].get("stop_reason") or self._reason
            if document.get("usage"):
                self._tell(document["usage"])
                self._told_all = True
        elif kind == "message_stop":
            self._stopped = True
        elif kind == "message":
            self._reason, self._stopped, self._told_all = document["stop_reason"], True, True
            self._tell(document["usage"])
        elif kind == "error":
            self.failed, self.error = True, document.get("error")

    def _tell(self, usage: dict[str, Any]) -> None:
        """`message_delta` repeats the prompt's counts only sometimes: what it leaves out stands."""
        before = self._told or Usage()
        prompt, cached = before.prompt_tokens, before.cached_tokens
        if usage.get("input_tokens") is not None:
            cached = _count(usage, "cache_read_input_tokens")
            prompt = _count(usage, "input_tokens") + cached + _count(usage, "cache_creation_input_tokens")
        self._told = Usage(prompt, cached, max(before.completion_tokens, _count(usage, "output_tokens")))


class GeminiReader(Reader):
    """Gemini's generateContent: each part of a stream tells the usage so far."""

    def __init__(self, prompt_bytes: int, choices: int = 1, prompts: int = 1) -> None:
        super().__init__(prompt_bytes, choices, prompts)
        self._reasons: set[int] = set()
        self._blocked = False

    @property
    def finished(self) -> bool:
        return (self._blocked or len(self._reasons) >= self._choices) and not self.failed

    def _document(self, document: dict[str, Any]) -> None:
        for candidate in document.get("candidates") or ():
            if candidate.get("finishReason"):
                self._reasons.add(candidate.get("index", 0))
            if (candidate.get("content") or {}).get("parts"):
                self._parts += 1
        self._blocked = self._blocked or bool((document.get("promptFeedback") or {}).get("blockReason"))
        usage = document.get("usageMetadata")
        if usage:
            prompt = _count(usage, "promptTokenCount") + _count(usage, "toolUsePromptTokenCount")
            completion = _count(usage, "candidatesTokenCount") + _count(usage, "thoughtsTokenCount")
            self._told = Usage(prompt, min(prompt, _count(usage, "cachedContentTokenCount")), completion)
        # Its figures are true of what has come; a part that tells none is counted by us.
        self._told_all = bool(usage)


READERS: dict[str, type[Reader]] = {
    "openai": OpenAIReader,
    "anthropic": AnthropicReader,
    "gemini": GeminiReader,
    "mistral": OpenAIReader,
    "groq": OpenAIReader,
    "together_ai": OpenAIReader,
    "openrouter": OpenAIReader,
}
"""The protocol of each provider that is known here (and to registry.providers)."""

EMBEDDERS: dict[str, type[Reader]] = dict.fromkeys(("openai", "mistral", "together_ai", "openrouter"), EmbeddingsReader)
"""Of those that tell what embeddings have used. Gemini does not."""


def prompt_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of the text in a body's messages or prompt: media, roles and tools are left out. A token id counts as
    so many bytes as a token has."""
    if "messages" not in body:
        return _text_bytes(body.get("prompt", ""))
    total = 0
    for message in body["messages"]:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        total += sum(len(text.encode(errors="replace")) for text in texts if isinstance(text, str))
    return total


def _text_bytes(prompt: object) -> int:
    if isinstance(prompt, list):
        return sum(_text_bytes(part) for part in prompt)
    return len(prompt.encode(errors="replace")) if isinstance(prompt, str) else BYTES_PER_TOKEN


def _count(usage: dict[str, Any], name: str) -> int:
    value = usage.get(name) or 0
    if type(value) is not int or value < 0:
        raise TypeError("a usage count is not a number")
    return value
