"""Real SGLang processes on two nodes of this machine: one worker, a pipeline over both, and every way they end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engine_node import ENGINE_PYTHON, ROOT, EngineNode, free_ports, short_directory
from support.engines import call, chat, greedy_ids, stream
from support.manifest import API_KEY, launch_effect, prefetch_effect, stage_tensors, stop_effect

from engine.noded import processes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

LAYERS = [15, 15]
TOKENS = 24
PROMPTS = ["The capital of France is", "Once upon a time", "def fibonacci(n):"]


@pytest.fixture(scope="session")
def model() -> Path:
    """SmolLM2, prepared if it is not there."""
    path = Path("~/.cache/hydrant/models/SmolLM2-135M-Instruct").expanduser()
    subprocess.run([ENGINE_PYTHON, "-m", "engine.prepare_model", "--out", path], cwd=ROOT, check=True, timeout=600)
    return path


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[EngineNode, EngineNode]]:
    """Two nodes with a warm runtime each."""
    with short_directory() as home:
        pair = EngineNode(home, "node-a", (31000, 31049), 0), EngineNode(home, "node-b", (31050, 31099), 1)
        try:
            for node in pair:
                node.start_warm(wait=False)
                node.start_noded()
            for node in pair:
                node.wait(lambda node=node: node.client.report()["warm"]["ready"], "the warm runtime")
            yield pair
        finally:
            for node in pair:
                node.close()


@pytest.fixture(scope="module")
def single(nodes: tuple[EngineNode, EngineNode], model: Path) -> Iterator[dict[str, Any]]:
    """A worker that has the whole model, on the first node."""
    node, port = nodes[0], free_ports(1)[0]
    # The launch comes first: neither order may matter.
    node.apply(
        launch_effect("grp_single", "stg_single", 0, [30], port, grammar_backend="xgrammar"),
        prefetch_effect(model, "grp_single", "stg_single", 0, [30]),
    )
    yield node.wait_probed("stg_single")
    node.apply(stop_effect("grp_single", grace_s=0))
    node.wait_state("stg_single", "gone")


@pytest.fixture
def pipeline(nodes: tuple[EngineNode, EngineNode], model: Path, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """A pipeline of two stages, one a node: the stages' ids, with the first one's port."""
    group = f"grp_{request.node.name[5:45]}"
    stages = [f"{group}_0", f"{group}_1"]
    *ports, dist_port = free_ports(3)
    for rank, node in enumerate(nodes):
        node.apply(
            prefetch_effect(model, group, stages[rank], rank, LAYERS),
            launch_effect(group, stages[rank], rank, LAYERS, ports[rank], dist_port),
        )
    for rank, node in enumerate(nodes):
        node.wait_state(stages[rank], "ready")
    yield [group, *stages]
    for rank, node in enumerate(nodes):
        node.apply(stop_effect(group, grace_s=0))
        node.wait_state(stages[rank], "gone", "failed")


def test_a_worker_answers_a_question(nodes: tuple[EngineNode, EngineNode], single: dict[str, Any]) -> None:
    status, answer = call(single["port"], "/v1/chat/completions", chat("What is the capital of France?"))
    assert status == 200
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0


def test_a_worker_without_its_key_does_nothing(single: dict[str, Any]) -> None:
    for key in ("", "another-key"):
        status, _ = call(single["port"], "/v1/chat/completions", chat("Hello"), key=key)
        assert status == 401


def test_usage_adds_up_to_the_engines_counters(nodes: tuple[EngineNode, EngineNode], single: dict[str, Any]) -> None:
    node = nodes[0]
    before = node.client.counters("grp_single")
    question = "Name three colours, please, and say which one the sky has."
    usages = []
    for _ in range(2):
        _, answer = call(single["port"], "/v1/chat/completions", chat(question))
        usages.append(answer["usage"])
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(stream(single["port"], chat(question, stream_options=options)))
    with_text = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["delta"].get("content")]
    assert all(chunk["usage"]["completion_tokens"] for chunk in with_text), "every piece of text carries running usage"
    usages.append(chunks[-1]["usage"])
    after = node.client.counters("grp_single")
    assert after["prompt_tokens"] - before["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in usages)
    assert after["completion_tokens"] - before["completion_tokens"] == sum(u["completion_tokens"] for u in usages)
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
    assert cached[1] > 0, "the second request finds the first one's prefix"
    assert after["cached_tokens"] - before["cached_tokens"] == sum(cached)


def test_a_grammar_binds_the_answer(single: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    _, answer = call(single["port"], "/v1/chat/completions", chat("The capital of France?", response_format=form))
    assert answer["choices"][0]["message"]["content"].lstrip().startswith("{")


def test_a_pipeline_gives_the_single_workers_tokens(
    nodes: tuple[EngineNode, EngineNode], single: dict[str, Any], pipeline: list[str], model: Path
) -> None:
    _, first, second = pipeline
    port = nodes[0].stage(first)["port"]
    assert nodes[0].wait_probed(first)["probe"]["ok"]
    for prompt in PROMPTS:
        assert greedy_ids(port, prompt, TOKENS) == greedy_ids(single["port"], prompt, TOKENS)
    # Each node read its own layers only.
    for rank, (node, stage) in enumerate(zip(nodes, (first, second), strict=True)):
        reported = node.stage(stage)
        distinct = {tensor["sha256"]: tensor["end"] - tensor["begin"] for tensor in stage_tensors(model, rank, LAYERS)}
        assert reported["bytes_total"] == sum(distinct.values())
    assert nodes[1].stage(second)["url"] is None


def test_a_dead_rank_takes_the_whole_pipeline_down(nodes: tuple[EngineNode, EngineNode], pipeline: list[str]) -> None:
    _, first, second = pipeline
    os.kill(nodes[1].stage(second)["pids"][0], signal.SIGKILL)
    for node, stage in zip(nodes, (first, second), strict=True):
        ended = node.wait_state(stage, "failed")
        assert "while serving" in ended["reason"]
        assert ended["pids"] == []
        assert processes.in_directory(node.config.stages_dir / stage) == []
        assert not (node.config.stages_dir / stage).exists()
        # The log stays for people, without the worker's key.
        assert API_KEY not in (node.config.logs_dir / f"{stage}.log").read_text()


def test_a_killed_noded_is_replaced_in_mid_stream(
    nodes: tuple[EngineNode, EngineNode], single: dict[str, Any], pipeline: list[str]
) -> None:
    node, (group, first, _) = nodes[0], pipeline
    before = node.stage(first)
    tokens = 60
    body = chat("Tell a long story about a lighthouse.", max_tokens=tokens, ignore_eos=True)
    chunks = stream(before["port"], {**body, "stream_options": {"include_usage": True}})
    seen = [next(chunks) for _ in range(4)]
    node.kill_noded(signal.SIGKILL)
    seen += [next(chunks) for _ in range(4)]
    node.start_noded()
    seen += list(chunks)
    assert seen[-1]["usage"]["completion_tokens"] == tokens
    after = node.stage(first)
    assert (after["state"], after["pids"], after["url"]) == ("ready", before["pids"], before["url"])
    assert {name: after["marks"][name] for name in ("queued", "fork", "runtime", "load_end")} == {
        name: before["marks"][name] for name in ("queued", "fork", "runtime", "load_end")
    }
    assert node.client.counters(group)["completion_tokens"] >= tokens


def test_a_stage_that_cannot_start_says_why(nodes: tuple[EngineNode, EngineNode], model: Path) -> None:
    node, port = nodes[0], free_ports(1)[0]
    node.apply(
        prefetch_effect(model, "grp_bad", "stg_bad", 0, [30]),
        launch_effect("grp_bad", "stg_bad", 0, [30], port, tool_parser="no-such-parser"),
    )
    ended = node.wait_state("stg_bad", "failed")
    assert "no-such-parser" in ended["reason"]
    assert API_KEY not in ended["reason"]


def test_a_plain_start_serves_the_same_and_a_sweep_leaves_nothing(single: dict[str, Any], model: Path) -> None:
    with short_directory() as home:
        node, port = EngineNode(home, "node-c", (31000, 31099), 0), free_ports(1)[0]
        try:
            node.start_noded()
            assert not node.client.report()["warm"]["ready"]
            node.apply(
                prefetch_effect(model, "grp_swept", "stg_swept", 0, [30]),
                launch_effect("grp_swept", "stg_swept", 0, [30], port),
            )
            pids = node.wait_state("stg_swept", "ready")["pids"]
            assert len(pids) == 3
            assert greedy_ids(port, PROMPTS[0], TOKENS) == greedy_ids(single["port"], PROMPTS[0], TOKENS)
            shared = processes.shared_memory(pids)
            node.kill_noded(signal.SIGTERM)
            assert call(port, "/v1/models")[0] == 200, "an ended noded leaves its engines serving"
        finally:
            node.close()
        assert [pid for pid in pids if processes.identify(pid)] == []
        assert [path for path in shared if path.exists()] == []
        kept = node.config.store_dir, node.config.temp_dir, node.config.stages_dir
        assert [path for path in kept if path.exists()] == []
        assert [path for path in home.rglob("*") if path.is_socket()] == []


def test_engines_outlive_their_warm_runtime(nodes: tuple[EngineNode, EngineNode], single: dict[str, Any]) -> None:
    # The last test here: the next ones would have to wait for another import.
    node = nodes[0]
    node.kill_warm(signal.SIGKILL)
    node.wait(lambda: not node.client.report()["warm"]["ready"], "noded to notice")
    assert len(greedy_ids(single["port"], PROMPTS[0], 4)) == 4
    assert node.client.counters("grp_single")["completion_tokens"]
