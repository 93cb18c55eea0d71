"""What a client sees, and what is left, when models cannot be served and when engines die: real SGLang throughout."""

import http.client
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from support.asking import PROMPT, Ask
from support.stack import SERVING, URGENT_MS, Stack, wait_for

from engine.client import NodedUnavailable

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


# --- models that cannot be served -------------------------------------------------------------------------------------


def _refused(stack: Stack, model: str) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        stack.client(timeout=120, max_retries=0).completions.create(model=model, prompt=PROMPT, max_tokens=4)
    assert set(caught.value.body or {}) >= {"message", "type", "code"}
    return caught.value


def test_weights_changed_after_registration_are_never_served(
    stack: Stack, tiny: Callable[..., str], tiny_llama: Path, tmp_path: Path
) -> None:
    stack.evict_all()  # what a host's memory holds, verified, needs no source
    source = tmp_path / "changed"
    shutil.copytree(tiny_llama, source)
    model_id = tiny("changed", source)
    weights = max(source.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    with weights.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"\xff" * 16)
    error = _refused(stack, "changed")
    assert error.status_code == 503
    assert "retry-after" in error.response.headers
    failed = stack.group_in(model_id, "failed")
    assert failed is not None
    assert "SHA-256 differs" in (failed.reason or "")
    assert failed.ready_at_ms is None


def test_a_source_that_has_vanished(stack: Stack, tiny: Callable[..., str], tiny_llama: Path, tmp_path: Path) -> None:
    stack.evict_all()
    source = tmp_path / "vanished"
    shutil.copytree(tiny_llama, source)
    model_id = tiny("vanished", source)
    shutil.rmtree(source)
    assert _refused(stack, "vanished").status_code == 503
    failed = stack.group_in(model_id, "failed")
    assert failed is not None
    assert "stage 0 on node-" in (failed.reason or "")


def test_no_device_has_the_memory(stack: Stack, tiny: Callable[..., str]) -> None:
    tiny("huge", kv_reserve_bytes=10**12)
    error = _refused(stack, "huge")
    assert (error.status_code, error.code) == (503, "model_start_failed")
    # What the cluster lacks is for operators.
    assert "memory" not in error.message
    told = stack.redis.hget("hyd:coldstart", "huge")
    assert told is not None
    assert "memory" in json.loads(told)["error"]


# --- engines that die -------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_while_serving(stack: Stack, tiny: Callable[..., str]) -> None:
    model_id = tiny("dies")
    Ask(stack, "dies").answered()
    first = stack.group_in(model_id, *SERVING)
    assert first is not None
    ask = Ask(stack, "dies", max_tokens=1500)
    ask.begun()
    plain = Ask(stack, "dies", max_tokens=400, stream=False)
    # Both run on the worker before it dies.
    wait_for("the plain call's attempt", lambda: stack.redis.hlen("hyd:attempts") == 2, 30)
    time.sleep(1)
    os.kill(first.stages[0].pids[0], signal.SIGKILL)
    ask.ended(60)
    assert ask.error is not None, "a begun stream must not end like a normal one"
    assert getattr(ask.error, "code", None) == "worker_failed", repr(ask.error)
    assert 0 < ask.delivered < 1500
    # Nothing of the plain call had been sent: it is served by the next worker.
    assert plain.answered().delivered == 400
    ask.billed_once()
    plain.billed_once()
    assert [row.outcome for row in stack.rows_of(ask.request_id)] == ["upstream_error"]
    assert sorted(row.outcome for row in stack.rows_of(plain.request_id)) == ["ok", "upstream_error"]
    replaced = stack.group_in(model_id, *SERVING)
    assert replaced is not None
    assert replaced.id != first.id


def test_a_broken_stream_ends_with_an_error_frame_and_no_end_mark(stack: Stack, tiny: Callable[..., str]) -> None:
    model_id = tiny("broken")
    Ask(stack, "broken").answered()
    group = stack.group_in(model_id, *SERVING)
    assert group is not None
    connection = http.client.HTTPConnection("127.0.0.1", stack.services.ports.gateway, timeout=60)
    body = {"model": "broken", "prompt": PROMPT, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    headers = {"authorization": f"Bearer {stack.api_key}", "content-type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    response = connection.getresponse()
    received = b"".join(response.readline() for _ in range(20))
    os.kill(group.stages[0].pids[0], signal.SIGKILL)
    received += response.read()
    connection.close()
    events = [event for event in received.split(b"\n\n") if event]
    assert b"[DONE]" not in received
    assert json.loads(events[-1].removeprefix(b"data: "))["error"]["code"] == "worker_failed"
    assert not any(b"error" in event for event in events[:-1])


def test_a_stage_that_dies_while_starting_costs_no_request(stack: Stack, tiny: Callable[..., str]) -> None:
    model_id = tiny("restarts")
    ask = Ask(stack, "restarts")

    def processes() -> list[int] | None:
        group = stack.group_in(model_id, "starting")
        return group.stages[0].pids or None if group is not None else None

    pids = wait_for("an engine process", processes, 60)
    os.kill(pids[0], signal.SIGKILL)
    ask.answered()
    states = [group.state for group in stack.groups(model_id)]
    assert states[0] == "failed"
    assert stack.groups(model_id)[0].reason


def test_a_pipeline_dies_as_one(stack: Stack, tiny: Callable[..., str], smollm2: Path) -> None:
    stack.evict_all()
    model_id = tiny("pair", smollm2, slo_ttft_ms=URGENT_MS)
    ask = Ask(stack, "pair", max_tokens=1500)
    ask.begun()
    (pipeline, *_) = stack.groups(model_id)
    assert len(pipeline.stages) == 2
    os.kill(pipeline.stages[1].pids[0], signal.SIGKILL)
    ask.ended(60)
    assert getattr(ask.error, "code", None) == "worker_failed", repr(ask.error)
    ask.billed_once()
    wait_for(
        "the end of both stages",
        lambda: all(stage.state in ("gone", "failed") for stage in stack.groups(model_id)[0].stages),
        60,
    )
    Ask(stack, "pair").answered()


def test_a_rank_that_dies_while_its_pipeline_starts_costs_no_request(
    stack: Stack, tiny: Callable[..., str], smollm2: Path
) -> None:
    stack.evict_all()
    model_id = tiny("half", smollm2, slo_ttft_ms=URGENT_MS)
    ask = Ask(stack, "half")

    def second_rank() -> list[int] | None:
        group = stack.group_in(model_id, "starting")
        return group.stages[1].pids or None if group is not None and len(group.stages) == 2 else None

    os.kill(wait_for("the second rank's process", second_rank, 60)[0], signal.SIGKILL)
    ask.answered()
    ask.billed_once()
    first = stack.groups(model_id)[0]
    assert first.state == "failed"
    assert "stage 1 on node-" in (first.reason or "")


# --- processes of ours that die ---------------------------------------------------------------------------------------


def test_noded_killed_in_mid_stream(stack: Stack, tiny: Callable[..., str]) -> None:
    model_id = tiny("adopted")
    Ask(stack, "adopted").answered()
    group = stack.group_in(model_id, *SERVING)
    assert group is not None
    node, pids = group.stages[0].node_name, set(group.stages[0].pids)
    ask = Ask(stack, "adopted", max_tokens=600)
    ask.begun()
    stack.kill(f"noded-{node[-1]}")
    time.sleep(1)
    stack.run(f"noded-{node[-1]}")

    def adopted() -> bool:
        try:
            stages = stack.noded(node).report()["stages"]
        except NodedUnavailable:
            return False
        return any(stage["state"] == "ready" and pids <= set(stage["pids"]) for stage in stages)

    wait_for("the same processes in the new noded's report", adopted, 60)
    assert ask.answered().finish_reason == "length"
    assert ask.delivered == 600
    ask.billed_once()
    same = stack.group_in(model_id, *SERVING)
    assert same is not None
    assert same.id == group.id
