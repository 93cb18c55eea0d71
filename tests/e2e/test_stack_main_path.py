"""The main job on a real model: cold start as a pipeline, consolidation under a stream, scale to zero, the bill."""

import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from support.stack import SERVING, URGENT_MS, Stack, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAME = "smollm2"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
POEM = [{"role": "user", "content": "Write a poem about winter."}]
STORY = [{"role": "user", "content": "Tell a long story about a lighthouse keeper and the sea."}]
LONG = 250
"""Tokens: at 50 to 100 ms each, a stream outlives the growth of the standalone worker beside it."""


@pytest.fixture(scope="module")
def model_id(stack: Stack, smollm2: Path) -> Iterator[str]:
    """SmolLM2, with a service level that one link cannot meet, and none of it in any host's memory."""
    stack.evict_all()
    model = stack.register(NAME, smollm2, slo_ttft_ms=URGENT_MS, keep_alive_s=600)
    yield model
    stack.end(model)


class Streamed(threading.Thread):
    """A greedy streamed chat answer, read in a thread."""

    def __init__(self, stack: Stack, messages: list[dict[str, str]], max_tokens: int, **extra: object) -> None:
        super().__init__(daemon=True)
        self._client = stack.client(timeout=240, max_retries=0)
        self._arguments = {"messages": messages, "max_tokens": max_tokens, "extra_body": extra or None}
        self.text = ""
        self.tokens: list[str] = []
        self.finish_reason: str | None = None
        self.usage: openai.types.CompletionUsage | None = None
        self.begun = threading.Event()
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            stream = self._client.chat.completions.create(
                model=NAME,
                temperature=0,
                stream=True,
                logprobs=True,
                stream_options={"include_usage": True},
                **self._arguments,
            )
            for chunk in stream:
                self.usage = chunk.usage or self.usage
                for choice in chunk.choices:
                    self.text += choice.delta.content or ""
                    if choice.logprobs is not None:
                        self.tokens += [one.token for one in choice.logprobs.content or ()]
                    self.finish_reason = choice.finish_reason or self.finish_reason
                if self.text:
                    self.begun.set()
        except openai.OpenAIError as error:
            self.error = error
        finally:
            self.begun.set()

    def ended(self) -> "Streamed":
        """This, once it has ended; AssertionError when it has not, or not well."""
        self.join(180)
        assert not self.is_alive(), "the stream hangs"
        assert self.error is None, self.error
        return self


def test_main_path(stack: Stack, model_id: str) -> None:
    cold = Streamed(stack, QUESTION, 24)
    assert cold.begun.wait(120)
    assert "Paris" in cold.ended().text
    assert cold.finish_reason == "stop"
    pipeline = stack.groups(model_id)[0]
    assert [(s.first_layer, s.layer_count) for s in pipeline.stages] == [(0, 15), (15, 15)]
    assert {s.node_name for s in pipeline.stages} == {"node-a", "node-b"}

    # Each stage fetched its own tensors and nothing else.
    sizes = [s.bytes_total for s in pipeline.stages]
    assert all(stage.bytes_fetched == stage.bytes_total for stage in pipeline.stages)
    assert max(sizes) < 0.65 * 269_000_000

    long = Streamed(stack, STORY, LONG, ignore_eos=True)
    assert long.begun.wait(60)
    other = Streamed(stack, POEM, LONG, ignore_eos=True)
    heir = wait_for("the standalone worker", lambda: stack.group_in(model_id, "standalone"), 120)
    assert heir.parent_id == pipeline.id
    # It holds a stage of the pipeline already, and fetched only what was missing.
    (whole,) = heir.stages
    (shared,) = [s for s in pipeline.stages if s.node_name == whole.node_name]
    assert whole.bytes_fetched == whole.bytes_total - shared.bytes_total

    # SQL knows it a moment before gateways do.
    wait_for("the route to it", lambda: stack.routed_only_to(heir, NAME), 10)
    during = Streamed(stack, QUESTION, 24).ended()
    assert during.tokens == cold.tokens
    assert long.is_alive(), "the streams must span the whole consolidation; make LONG larger"
    assert other.is_alive(), "the streams must span the whole consolidation; make LONG larger"
    for stream in (long, other):
        assert stream.ended().finish_reason == "length"
        assert stream.usage is not None
        assert stream.usage.completion_tokens == len(stream.tokens) == LONG
    wait_for("the pipeline's end", lambda: stack.group_in(model_id, "stopped"), 60)
    # Undisturbed, on the standalone worker: no token was missed or repeated, and the pipeline computed the same ones.
    assert Streamed(stack, STORY, LONG, ignore_eos=True).ended().tokens == long.tokens
    assert Streamed(stack, POEM, LONG, ignore_eos=True).ended().tokens == other.tokens

    rows = stack.settled(model_id, 6)
    assert [row.group_id for row in rows] == [pipeline.id] * 3 + [heir.id] * 3
    assert all(row.outcome == "ok" for row in rows)
    counted = stack.counters(heir)
    assert counted is not None
    assert counted["completion_tokens"] == sum(r.completion_tokens for r in rows if r.group_id == heir.id)
    assert counted["prompt_tokens"] == sum(r.prompt_tokens for r in rows if r.group_id == heir.id)
    stack.balance_books()


def test_litellm_lane_gives_the_same_answer_usage_and_bill(stack: Stack, model_id: str) -> None:
    # The prompt is in the prefix cache after the first call: what follows is counted alike in both lanes.
    Streamed(stack, QUESTION, 24).ended()
    direct = Streamed(stack, QUESTION, 24).ended()
    stack.set_model(model_id, lane="litellm")
    try:
        wait_for("the lane at the gateway", lambda: _lane_of_next(stack, model_id) == "litellm", 30)
        through_litellm = Streamed(stack, QUESTION, 24).ended()
    finally:
        stack.set_model(model_id, lane="direct")
    assert through_litellm.text == direct.text
    assert through_litellm.usage is not None
    assert direct.usage is not None
    assert through_litellm.usage.completion_tokens == direct.usage.completion_tokens
    assert through_litellm.usage.prompt_tokens == direct.usage.prompt_tokens
    rows = [row for row in stack.usage(model_id) if row.completion_tokens == direct.usage.completion_tokens]
    by_lane = {row.lane: row.cost_nusd for row in rows}
    assert by_lane["litellm"] == by_lane["direct"]


def _lane_of_next(stack: Stack, model_id: str) -> str:
    before = len(stack.usage(model_id))
    Streamed(stack, QUESTION, 24).ended()
    return stack.settled(model_id, before + 1)[-1].lane


def test_idle_model_scales_to_zero_and_comes_back_from_host_memory(stack: Stack, model_id: str) -> None:
    stack.set_model(model_id, keep_alive_s=2)
    try:
        wait_for("scale to zero", lambda: stack.all_over(model_id), 60)
    finally:
        stack.set_model(model_id, keep_alive_s=600)
    for node in stack.services.nodes:
        assert not [s for s in stack.noded(node.name).report()["stages"] if s["state"] not in ("gone", "failed")]
    answer = Streamed(stack, QUESTION, 24).ended()
    assert "Paris" in answer.text
    group = stack.group_in(model_id, *SERVING)
    assert group is not None
    # The node that had the whole model needs no link, so one worker is enough, and it fetches nothing.
    assert [stage.bytes_fetched for stage in group.stages] == [0]
