"""What must hold, asked of real SGLang: bytes read at the source, tenants kept apart, replicas that move."""

from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from support.asking import Ask
from support.range_server import RangeServer
from support.stack import URGENT_MS, Stack, wait_for

from registry.manifest import ManifestDoc, stage_tensors
from registry.models import Model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


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
        model_id = tiny("over-http", server.url, slo_ttft_ms=URGENT_MS)
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
