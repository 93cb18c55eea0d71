"""A request whose worker fails before anything was sent: tried elsewhere, a bounded number of times, billed once."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from redis.exceptions import TimeoutError as RedisTimeout
from support.fake_worker import PROMPT_TOKENS, FakeWorker, usage
from support.gateway_process import RunningGateway, World, model_entry, route_entry, until

CHAT = "/v1/chat/completions"


def abort(document: dict[str, Any]) -> None:
    """SGLang's answer to a request that was aborted in it."""
    document["choices"][0]["finish_reason"] = "abort"


def no_usage(document: dict[str, Any]) -> None:
    """An answer that cannot be billed."""
    document["usage"] = None


BAD_ANSWERS = {"abort": abort, "no usage": no_usage, "no completion": dict.clear}
LOST = ("refuses connections", "dies before the first byte")


async def fail_by(worker: FakeWorker, kind: str) -> None:
    """Makes a worker fail in this way."""
    if kind == "refuses connections":
        await worker.stop()
    elif kind == "dies before the first byte":
        worker.die_after = -1
    elif kind == "server error":
        worker.refuse = (500, {"message": "boom"})
    else:
        worker.alter = BAD_ANSWERS[kind]


@pytest.mark.parametrize(
    ("kind", "stream"),
    [(kind, stream) for kind in (*LOST, "server error") for stream in (True, False)]
    + [(kind, False) for kind in BAD_ANSWERS],
)
async def test_a_request_is_tried_elsewhere_while_nothing_was_sent(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, second: FakeWorker,
    question: dict[str, Any], kind: str, stream: bool,
) -> None:  # fmt: skip
    await fail_by(worker, kind)
    await world.route("small", route_entry(worker.url, prefer=2), route_entry(second.url, "grp_2"))
    await world.until_read()
    async with client.post(CHAT, json=question | {"stream": stream}) as answer:
        assert answer.status == 200
        body = await answer.read()
    assert b"three" in body
    failed, served = await world.until_events(2)
    assert (served["outcome"], served["group_id"]) == ("ok", "grp_2")
    assert (failed["outcome"], failed["group_id"], failed["reserved_nusd"]) == ("upstream_error", "grp_1", 0)
    assert failed["completion_tokens"] == failed["prompt_tokens"] == 0
    assert failed["attempt_id"] != served["attempt_id"]
    await world.released()


@pytest.mark.parametrize("kind", ["server error", *BAD_ANSWERS])
async def test_a_worker_that_fails_every_time_is_given_up_and_not_passed_over(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any],
    kind: str,
) -> None:  # fmt: skip
    await fail_by(worker, kind)
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 502
        document = await answer.json()
    assert document["error"]["code"] == "worker_failed"
    assert "boom" not in document["error"]["message"]
    events = await world.until_events(3)
    assert [event["outcome"] for event in events] == ["upstream_error"] * 3
    await world.released()
    assert await world.reserved() == 0
    worker.refuse = worker.alter = None
    # Nobody else waits for a worker that answers: there is no other.
    world.hold["deadline_s"] = 0
    await world.applied()
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 200


async def test_a_reservation_survives_no_lost_answer_of_redis(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    admission = gateway.app._metering._admission
    real = admission.replace

    async def unheard(*attempts: Any) -> bool:
        await real(*attempts)
        raise RedisTimeout("the answer was lost")

    monkeypatch.setattr(admission, "replace", unheard)
    worker.refuse = (500, {"message": "boom"})
    async with client.post(CHAT, json=question) as answer:
        assert answer.status == 503
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["reserved_nusd"]) == ("upstream_error", 0)
    await world.released()
    # Only the ended attempt, if anything, is there for the ledger.
    assert all("outcome" in attempt for attempt in await world.redis.hvals("hyd:attempts"))


async def test_a_reservation_survives_no_client_that_leaves_between_two_tries(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    admission = gateway.app._metering._admission
    real, replaced, go_on = admission.replace, asyncio.Event(), asyncio.Event()

    async def slow(*attempts: Any) -> bool:
        moved = await real(*attempts)
        replaced.set()
        await go_on.wait()
        return moved

    monkeypatch.setattr(admission, "replace", slow)
    worker.refuse = (500, {"message": "boom"})
    asking = asyncio.create_task(client.post(CHAT, json=question).__aenter__())
    await replaced.wait()
    asking.cancel()
    await asyncio.sleep(0.05)  # the cancellation arrives first, or the answer of Redis: both must do
    go_on.set()
    (event,) = await world.until_events(1)
    assert event["reserved_nusd"] == 0
    await world.released()
    assert all("outcome" in attempt for attempt in await world.redis.hvals("hyd:attempts"))


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_a_bound_of_the_clients_fills_what_the_prompt_leaves(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any],
    stream: bool,
) -> None:  # fmt: skip
    world.models["small"] = model_entry(default_max_tokens=20)
    await world.applied()
    worker.context = 16
    del question["max_tokens"]
    async with client.post(CHAT, json=question | {"stream": stream}) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    assert [request["max_tokens"] for request in worker.requests] == [20, 16 - PROMPT_TOKENS]
    (event,) = await world.until_events(1)
    assert (event["outcome"], event["completion_tokens"]) == ("ok", 16 - PROMPT_TOKENS)
    await world.released()


async def test_a_bound_of_the_clients_that_does_not_fit_is_refused(
    gateway: RunningGateway, client: aiohttp.ClientSession, worker: FakeWorker, question: dict[str, Any]
) -> None:
    worker.context = 16
    for asked, said in ((20, "maximum context length of 16"), (999_999, "999999 for the completion")):
        async with client.post(CHAT, json=question | {"max_tokens": asked}) as answer:
            error = (await answer.json())["error"]
            # The code on which clients branch: OpenAI's.
            assert (answer.status, error["code"]) == (400, "context_length_exceeded")
            assert said in error["message"]
    assert len(worker.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_does_not_fit_has_openais_code(
    gateway: RunningGateway, client: aiohttp.ClientSession, worker: FakeWorker, question: dict[str, Any], stream: bool
) -> None:
    said = f"The input ({worker.context} tokens) is longer than the model's context length ({worker.context} tokens)."
    worker.refuse = (400, {"object": "error", "message": said, "type": "BadRequestError", "param": None, "code": 400})
    async with client.post(CHAT, json=question | {"stream": stream}) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["message"], error["code"]) == (400, said, "context_length_exceeded")


async def test_a_stream_of_nonsense_is_the_workers_failure(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def strange(count: int) -> Any:
        return usage(count) | {"completion_tokens": "many"}

    monkeypatch.setattr("support.fake_worker.usage", strange)
    async with client.post(CHAT, json=question | {"stream": True}) as answer:
        frames = (await answer.text()).strip().split("\n\n")
    assert "worker_failed" in frames[-1]
    await until(lambda: worker.active == 0)
    await world.released()
