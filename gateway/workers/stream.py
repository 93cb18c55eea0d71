"""Reads a worker's server-sent events while passing them on. Pure: bytes in, bytes out.

For billing the gateway asks the worker for running usage (`stream_options`). What the client did not ask for is cut out
again, so that it gets the bytes that SGLang would have sent without the option.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.accounting.attempts import Usage
from gateway.workers.text_events import take_text_events

_USAGE = b',"usage":'
# SGLang encodes plain text deltas with msgspec, whose chunks have no `usage` key unless it is set; its pydantic chunks
# (completions, tool calls) always have one. Only the former begin their delta with this key.
_MSGSPEC_DELTA = b'"delta":{"reasoning_content":'


# The hosted process writes the engine's running usage in such comments before the events it belongs to, because litellm
# drops it; clients never see them.
USAGE_COMMENT = b": hydrant-usage "
MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Of one event, and of the events that are kept before anything is passed on: a worker that has gone mad must not fill
the gateway's memory. An event with the log probabilities of many tokens has some hundred kilobytes."""


def split_last_event(events: bytes) -> tuple[bytes, bytes]:
    """What comes before the last event, and that event; each event ends with an empty line."""
    at = events.rfind(b"\n\n", 0, -2) + 2
    return (events[:at], events[at:]) if at > 1 else (b"", events)


class _Stream:
    """Cuts bytes into events. `usage` is what was seen so far, `failed` whether the worker reported an error or aborted
    (`error` is its error object, if it gave one), `done` whether its end mark came."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.failed = False
        self.error: object = None
        self.done = False
        self._pending = b""

    def feed(self, data: bytes) -> bytes:
        """Takes bytes as they come from the worker; returns what the client is due of the events completed by them."""
        data = self._pending + data
        at, out = 0, list[bytes]()
        while not self.failed:
            at = self._quick(data, at, out)
            end = data.find(b"\n\n", at)
            if end < 0:
                break
            try:
                out.append(self._event(data[at:end]))
            except (ValueError, KeyError, TypeError, AttributeError):
                # Not what a worker writes: it failed, and not the gateway.
                self.failed = True
            at = end + 2
        self._pending = data[at:]
        if len(self._pending) + self._kept_bytes > MAX_EVENT_BYTES:
            self.failed, self._pending = True, b""
        return b"".join(out)

    def _quick(self, data: bytes, at: int, out: list[bytes]) -> int:
        """Reads the events from `at` on that need no parsing, into what the client is due; where they end."""
        return at

    @property
    def _kept_bytes(self) -> int:
        """Of whole events that are not passed on yet."""
        return 0

    def _event(self, event: bytes) -> bytes:
        raise NotImplementedError


class OpenAIStream(_Stream):
    """Follows one chat or completion stream of `choices` answers. `finished`: every answer has its finish reason."""

    def __init__(self, *, choices: int, prompts: int, wants_usage: bool, wants_running_usage: bool) -> None:
        super().__init__()
        self._expected = choices
        self._per_prompt = choices // prompts
        self._wants_usage = wants_usage
        self._keeps_all = wants_running_usage
        self._finished: set[int] = set()
        self._completion: dict[int, int] = {}
        self._prompt: dict[int, Usage] = {}

    @property
    def finished(self) -> bool:
        """Whether the answer is whole."""
        return len(self._finished) >= self._expected and not self.failed

    def _quick(self, data: bytes, at: int, out: list[bytes]) -> int:
        if self._expected > 1:
            return at
        end, due, usage = take_text_events(data, at, keep_usage=self._keeps_all)
        if usage is not None:
            self.usage = usage
            out += due
        return end

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
        chunk = orjson.loads(payload)
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
        """A chunk's usage counts its own answer only, and the prompt again with each: its first answer's is taken."""
        if self._expected == 1:
            self.usage = usage
            return
        total = self.usage
        more = usage.completion_tokens - self._completion.get(index, 0)
        self._completion[index] = usage.completion_tokens
        prompt = index // self._per_prompt
        counted = self._prompt.get(prompt, Usage())
        if index % self._per_prompt == 0 or prompt not in self._prompt:
            self._prompt[prompt] = usage
        now = self._prompt[prompt]
        self.usage = Usage(
            total.prompt_tokens + now.prompt_tokens - counted.prompt_tokens,
            total.cached_tokens + now.cached_tokens - counted.cached_tokens,
            total.completion_tokens + more,
        )


class AnthropicStream(_Stream):
    """Follows a Messages stream from the hosted process. `finished`: its stop reason came."""

    def __init__(self) -> None:
        super().__init__()
        self.finished = False

    def _event(self, event: bytes) -> bytes:
        if event.startswith(USAGE_COMMENT):
            self.usage = read_usage(orjson.loads(event[len(USAGE_COMMENT) :]))
            return b""
        if event.startswith(b"data: "):
            # The hosted process speaks of its failures in OpenAI's form; Anthropic's events have names.
            self.failed = True
            self.error = orjson.loads(event[6:])["error"]
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


class ResponsesStream(_Stream):
    """Follows a stream of `/v1/responses`. `finished`, and with it `done`: its last event came.

    SGLang sends its first two events before it has begun, so they are kept until there is more: till then another
    worker may take the request. It tells usage in the last event only; the engine's plugin tells the running usage, in
    comments before the events it belongs to. A worker without them is refused: a stream that its client leaves could
    not be billed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.finished = False
        self._told = False
        self._opening = b""

    @property
    def _kept_bytes(self) -> int:
        return len(self._opening)

    def _event(self, event: bytes) -> bytes:
        if event.startswith(USAGE_COMMENT):
            self.usage = read_usage(orjson.loads(event[len(USAGE_COMMENT) :]))
            self._told = True
            return b""
        name, data = event.split(b"\ndata: ", 1)
        if name in (b"event: response.created", b"event: response.in_progress"):
            self._opening += event + b"\n\n"
            return b""
        if name in (b"event: error", b"event: response.failed") or not self._told:
            self.failed = True
            self.error = orjson.loads(data).get("error")
            return b""
        if name in (b"event: response.completed", b"event: response.incomplete"):
            self.usage = read_responses_usage(orjson.loads(data)["response"]["usage"])
            self.finished = self.done = True
        opening, self._opening = self._opening, b""
        return opening + event + b"\n\n"


def read_responses_usage(usage: object) -> Usage:
    """The `usage` object of `/v1/responses`, whose counts have other names. Raises TypeError when it is not one."""
    if not isinstance(usage, dict):
        raise TypeError("not a usage object")
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    details = {"prompt_tokens_details": usage.get("input_tokens_details")}
    return read_usage({ours: usage[theirs] for ours, theirs in names.items()} | details)


def read_usage(usage: object) -> Usage:
    """The engine's `usage` object; cached tokens only where it reports them. Raises TypeError when it is not one."""
    details = usage.get("prompt_tokens_details") or {} if isinstance(usage, dict) else None
    if not isinstance(usage, dict) or not isinstance(details, dict):
        raise TypeError("not a usage object")
    return Usage(
        _count(usage.get("prompt_tokens")),
        _count(details.get("cached_tokens")),
        _count(usage.get("completion_tokens")),
        usage.get("estimated") is True,
    )


def _count(tokens: object) -> int:
    if tokens is None:
        return 0
    if type(tokens) is not int or tokens < 0:
        raise TypeError("a usage count is not a number")
    return tokens


def usage_json(usage: Usage) -> bytes:
    """The reverse of `read_usage`."""
    return orjson.dumps(usage_document(usage))


def usage_document(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object; `estimated` is in it only where it is true."""
    mark = {"estimated": True} if usage.estimated else {}
    return usage.totals() | {"prompt_tokens_details": {"cached_tokens": usage.cached_tokens}} | mark


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
