"""Reads a worker's server-sent events while passing them on. Pure: bytes in, bytes out.

For billing the gateway asks the worker for running usage (`stream_options`). What the client did not ask for is cut out
again, so that it gets the bytes that SGLang would have sent without the option.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.attempts import Usage

_USAGE = b',"usage":'
# SGLang encodes plain text deltas with msgspec, whose chunks have no `usage` key unless it is set; its pydantic chunks
# (completions, tool calls) always have one. Only the former begin their delta with this key.
_MSGSPEC_DELTA = b'"delta":{"reasoning_content":'


# The hosted process writes the engine's running usage in such comments before the events it belongs to, because litellm
# drops it; clients never see them.
USAGE_COMMENT = b": hydrant-usage "


class OpenAIStream:
    """Follows one chat or completion stream of `choices` answers.

    `usage` is what was seen so far, `finished` whether every answer has its finish reason, `failed` whether the worker
    reported an error or aborted (`error` is its error object, if it gave one), `done` whether its end mark came.
    """

    def __init__(self, *, choices: int, prompts: int, wants_usage: bool, wants_running_usage: bool) -> None:
        self.usage = Usage()
        self.failed = False
        self.error: object = None
        self.done = False
        self._pending = b""
        self._expected = choices
        self._per_prompt = choices // prompts
        self._wants_usage = wants_usage
        self._keeps_running = wants_usage and wants_running_usage
        self._keeps_all = wants_running_usage
        self._finished: set[int] = set()
        self._by_choice: dict[int, Usage] = {}

    @property
    def finished(self) -> bool:
        """Whether the answer is whole."""
        return len(self._finished) >= self._expected and not self.failed

    def feed(self, data: bytes) -> bytes:
        """Takes bytes as they come from the worker; returns what the client is due of the events completed by them."""
        self._pending += data
        *events, self._pending = self._pending.split(b"\n\n")
        out = []
        for event in events:
            if self.failed:
                break
            out.append(self._event(event))
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        start = event.find(b"data: ")
        if start < 0:
            if event.startswith(USAGE_COMMENT):
                self.usage = read_usage(orjson.loads(event[len(USAGE_COMMENT) :]))
                return b""
            return event + b"\n\n"
        payload = event[start + 6 :]
        if payload == b"[DONE]":
            self.done = True
            return event + b"\n\n"
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError:
            self.failed = True
            return b""
        if "error" in chunk:
            self.failed = True
            self.error = chunk["error"]
            return b""
        usage = chunk.get("usage")
        choices = chunk.get("choices") or ()
        for choice in choices:
            reason = choice.get("finish_reason")
            if reason == "abort":
                self.failed = True
                return b""
            if reason is not None:
                self._finished.add(choice["index"])
        if usage is None:
            return event + b"\n\n"
        if not choices:
            self.usage = read_usage(usage)
            if self._wants_usage:
                return event + b"\n\n"
            return cut_usage(event) + b"\n\n" if chunk.get("sglext") is not None else b""
        self._running(choices[0]["index"], read_usage(usage))
        return (event if self._keeps_all else cut_usage(event)) + b"\n\n"

    def _running(self, index: int, usage: Usage) -> None:
        """A chunk's usage counts its own answer only, and the prompt again with each."""
        if self._expected == 1:
            self.usage = usage
            return
        self._by_choice[index] = usage
        firsts: dict[int, Usage] = {}
        for choice, seen in sorted(self._by_choice.items()):
            firsts.setdefault(choice // self._per_prompt, seen)
        self.usage = Usage(
            sum(seen.prompt_tokens for seen in firsts.values()),
            sum(seen.cached_tokens for seen in firsts.values()),
            sum(seen.completion_tokens for seen in self._by_choice.values()),
        )


class AnthropicStream:
    """Follows a Messages stream from the hosted process."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.failed = False
        self.error: object = None
        self.done = False
        self.finished = False
        self._pending = b""

    def feed(self, data: bytes) -> bytes:
        """Takes bytes as they come; returns the events that they complete, without the usage comments."""
        self._pending += data
        *events, self._pending = self._pending.split(b"\n\n")
        out = []
        for event in events:
            if self.failed:
                break
            out.append(self._event(event))
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        if event.startswith(USAGE_COMMENT):
            self.usage = read_usage(orjson.loads(event[len(USAGE_COMMENT) :]))
            return b""
        if event.startswith(b"event: error"):
            self.failed = True
            return b""
        if event.startswith(b"event: message_delta"):
            delta = orjson.loads(event[event.index(b"data: ") + 6 :])["delta"]
            self.finished = self.finished or delta.get("stop_reason") is not None
        elif event.startswith(b"event: message_stop"):
            self.done = True
        return event + b"\n\n"


def read_usage(usage: dict[str, Any]) -> Usage:
    """The engine's `usage` object; cached tokens only where it reports them."""
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        usage.get("prompt_tokens") or 0, details.get("cached_tokens") or 0, usage.get("completion_tokens") or 0
    )


def usage_json(usage: Usage) -> bytes:
    """The reverse of `read_usage`."""
    return orjson.dumps(usage.totals() | {"prompt_tokens_details": {"cached_tokens": usage.cached_tokens}})


def cut_usage(event: bytes) -> bytes:
    """The event as SGLang writes it without the option: the key gone from msgspec's chunks, null in pydantic's."""
    start = event.rfind(_USAGE + b"{")
    if start < 0:
        return event
    end = event.index(b"}", start) + 1
    while event.count(b"{", start, end) > event.count(b"}", start, end):
        end = event.index(b"}", end) + 1
    if _MSGSPEC_DELTA in event:
        return event[:start] + event[end:]
    return event[:start] + _USAGE + b"null" + event[end:]
