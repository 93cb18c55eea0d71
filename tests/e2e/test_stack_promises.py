"""What must hold, asked of real SGLang: bytes read at the source, bytes passed through, tenants kept apart."""

import http.client
import json
import re
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from support.asking import Ask
from support.range_server import RangeServer
from support.stack import SERVING, Stack, wait_for

from registry.manifest import ManifestDoc, stage_tensors
from registry.models import Model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


TRIES = 5
"""A busy SGLang may put two tokens into one event; two calls of a few are alike all the same."""


def stage_bytes(stack: Stack, model_id: str, first: int, count: int, world: int) -> int:
    """What a stage's tensors weigh, by the manifest alone."""
    manifest: ManifestDoc = stack.row(Model, model_id).manifest  # type: ignore[assignment]
    wanted = stage_tensors(manifest, first, count, world=world)
    return sum(tensor["end"] - tensor["begin"] for tensor in wanted["tensors"])


def test_the_source_sends_each_stage_its_own_bytes_and_no_others(
    stack: Stack, tiny: Callable[..., str], smollm2: Path
) -> None:
    stack.evict_all()
    server = RangeServer(smollm2)
    try:
        model_id = tiny("over-http", server.url, slo_ttft_ms=17_000)
        registered = server.weight_bytes()
        ask = Ask(stack, "over-http", max_tokens=200)
        ask.begun()
        pipeline = stack.groups(model_id)[0]
        assert len(pipeline.stages) == 2
        parts = [stage_bytes(stack, model_id, s.first_layer, s.layer_count, 2) for s in pipeline.stages]
        assert server.weight_bytes() - registered >= sum(parts)
        heir = wait_for("the standalone worker", lambda: stack.group_in(model_id, "standalone"), 120)
        ask.answered()
        whole = stage_bytes(stack, model_id, 0, 30, 1)
        held = next(
            size
            for size, stage in zip(parts, pipeline.stages, strict=True)
            if stage.node_name == heir.stages[0].node_name
        )
        # The tied embedding is both stages' own; on the heir's node it was there already.
        assert server.weight_bytes() - registered == sum(parts) + whole - held
    finally:
        server.close()


def _events(address: tuple[str, int], key: str, body: dict[str, object]) -> list[bytes]:
    """The events of a stream, less what differs with every call."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(body),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    response = connection.getresponse()
    received = response.read()
    connection.close()
    assert response.status == 200, received
    received = re.sub(rb'"id":"[^"]*"', b'"id":""', re.sub(rb'"created":\d+', b'"created":0', received))
    events = [event for event in received.split(b"\n\n") if event and not event.startswith(b":")]
    # In which order the answers of one request take turns is chance; each answer's own events keep theirs.
    return sorted(events, key=lambda event: _index(event))


def _index(event: bytes) -> int:
    found = re.search(rb'"index":(\d+)', event)
    return int(found[1]) if found else 1_000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 2},
        {"n": 2, "seed": 1},
        {"stop": ["the"]},
    ],
    ids=["plain", "usage", "logprobs", "two answers", "stop"],
)
def test_a_stream_is_what_sglang_itself_sends(
    stack: Stack, tiny: Callable[..., str], smollm2: Path, options: dict[str, object]
) -> None:
    name = f"through-{len(json.dumps(options))}"
    model_id = tiny(name, smollm2, slo_ttft_ms=60_000)
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 12,
        "temperature": 0,
        "stream": True,
        **options,
    }
    gateway = ("127.0.0.1", stack.services.ports.gateway)
    _events(gateway, stack.api_key, body)  # the prompt is in the prefix cache now
    group = stack.group_in(model_id, *SERVING)
    assert group is not None
    salted = {**body, "cache_salt": stack.salt()}
    for _ in range(TRIES):
        straight = _events(("127.0.0.1", group.stages[0].port), group.api_key, salted)
        through = _events(gateway, stack.api_key, body)
        if through == straight:
            break
    assert through == straight


def test_one_tenant_cannot_time_anothers_prompts(stack: Stack, tiny: Callable[..., str]) -> None:
    tiny("shared")
    prompt = "A secret that only one tenant has ever sent to this model, word for word. " * 8

    def cached_tokens(client: openai.OpenAI) -> int:
        answer = client.completions.create(model="shared", prompt=prompt, max_tokens=1, temperature=0)
        assert answer.usage is not None
        details = answer.usage.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0

    mine, theirs = stack.client(timeout=120), stack.client_of_another_tenant()
    assert cached_tokens(mine) == 0
    assert cached_tokens(mine) > 0
    assert cached_tokens(theirs) == 0
    assert cached_tokens(theirs) > 0


def test_min_replicas_and_a_drained_node(stack: Stack, tiny: Callable[..., str]) -> None:
    """A worker that must be there moves away from a node that an operator empties, and a stream on it ends normally."""
    model_id = tiny("moved", min_replicas=1)
    first = wait_for("the replica", lambda: stack.group_in(model_id, "standalone"), 120)
    node = first.stages[0].node_name
    ask = Ask(stack, "moved", max_tokens=600)
    ask.begun()
    stack.drain(node)
    try:
        second = wait_for(
            "a replica on the other node",
            lambda: (found := stack.group_in(model_id, "standalone")) and found.id != first.id and found,
            120,
        )
        assert second.stages[0].node_name != node
        assert ask.answered().delivered == 600
        wait_for("the first one's end", lambda: stack.groups(model_id)[0].state == "stopped", 60)
        Ask(stack, "moved").answered().billed_once()
    finally:
        stack.drain(node, back=True)
