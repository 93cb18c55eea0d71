"""A client of the whole stack, and what it must find in the ledger afterwards."""

from __future__ import annotations

import threading
import time
import uuid

import httpx
import openai
from support.stack import Stack, wait_for

PROMPT = "Once upon a time"
CHECKPOINT_S = 3.0
"""Tokens older than this are checkpointed when a gateway dies: it does so each second, if busy a bit later."""


class Ask(threading.Thread):
    """A greedy completion, streamed, in a thread, that counts what it was given by the engine's own running usage.

    `seen` is (monotonic time, completion tokens so far) for each chunk; `error` is what the SDK raised.
    """

    def __init__(
        self, stack: Stack, model: str, max_tokens: int = 16, *, within_s: float = 180, stream: bool = True
    ) -> None:
        super().__init__(daemon=True)
        self._client = stack.client(timeout=within_s, max_retries=0)
        self._stack, self._model, self._max_tokens, self._stream = stack, model, max_tokens, stream
        self.request_id = f"test-{uuid.uuid4().hex}"
        self.text = ""
        self.seen: list[tuple[float, int]] = []
        self.finish_reason: str | None = None
        self.error: openai.OpenAIError | httpx.HTTPError | None = None
        self.start()

    def run(self) -> None:
        try:
            if self._stream:
                self._read_stream()
            else:
                answer = self._create()
                self.finish_reason = answer.choices[0].finish_reason
                self.text = answer.choices[0].text
                self.seen.append((time.monotonic(), answer.usage.completion_tokens))
        except (openai.OpenAIError, httpx.HTTPError) as error:  # the SDK lets a broken stream's own error through
            self.error = error

    def _read_stream(self) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        for chunk in self._create(stream=True, stream_options=options):
            if chunk.usage is not None:
                self.seen.append((time.monotonic(), chunk.usage.completion_tokens))
            for choice in chunk.choices:
                self.text += choice.text
                self.finish_reason = choice.finish_reason or self.finish_reason

    def _create(self, **options: object) -> object:
        return self._client.completions.create(
            model=self._model,
            prompt=PROMPT,
            max_tokens=self._max_tokens,
            temperature=0,
            extra_body={"ignore_eos": True},
            extra_headers={"x-request-id": self.request_id},
            **options,
        )

    @property
    def delivered(self) -> int:
        """Completion tokens that arrived."""
        return self.seen[-1][1] if self.seen else 0

    def ended(self, within_s: float = 180) -> Ask:
        """This, once it is over in whatever way."""
        self.join(within_s)
        assert not self.is_alive(), "the request hangs"
        return self

    def answered(self) -> Ask:
        """This, once it was answered to the end."""
        self.ended()
        assert self.error is None, self.error
        assert self.finish_reason is not None, "a stream that ends without a finish reason"
        return self

    def begun(self) -> None:
        """Wait for the first tokens."""
        wait_for("the stream's first tokens", lambda: self.delivered > 2 or not self.is_alive(), 120)
        assert self.is_alive(), self.error

    def billed_once(self, *, gateway_lost: bool = False) -> None:
        """The ledger has what arrived: each attempt once, to the token, unless the gateway itself was lost.

        Then it has the last checkpoint: never more than was delivered, and all but the last moments of it.
        """
        self._stack.balance_books()
        rows = self._stack.rows_of(self.request_id)
        charged = [row for row in rows if row.completion_tokens]
        assert len(charged) <= 1, [(row.attempt_id, row.outcome, row.completion_tokens) for row in rows]
        tokens = sum(row.completion_tokens for row in charged)
        if gateway_lost:
            old = max((n for at, n in self.seen if at < self.seen[-1][0] - CHECKPOINT_S), default=0)
            assert old <= tokens <= self.delivered
        else:
            assert tokens == self.delivered
            assert all(row.cost_nusd == 0 for row in rows if not row.completion_tokens and row.outcome != "ok")
