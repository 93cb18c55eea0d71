"""A key's defaults and ceilings reach the worker; models that share an alias each get their requests."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, PEPPER, RunningGateway, World, model_entry, route_entry

from gateway.readmodel.snapshot import hash_key

CHAT = "/v1/chat/completions"


@pytest.fixture
def question() -> dict[str, Any]:
    """A chat request that leaves everything open."""
    return {"model": "small", "messages": [{"role": "user", "content": "a b c d e f g h"}]}


async def use(world: World, *, defaults: dict[str, Any] | None = None, ceilings: dict[str, Any] | None = None) -> None:
    """Gives the key these parameters."""
    world.keys[hash_key(KEY, PEPPER)] |= {"defaults": defaults or {}, "ceilings": ceilings or {}}
    await world.applied()


async def test_defaults_fill_what_a_request_leaves_open(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    await use(world, defaults={"temperature": 0.25, "seed": 7, "max_tokens": 3})
    async with client.post(CHAT, json=question | {"seed": 8, "top_p": None}) as answer:
        assert answer.status == 200
    sent = worker.requests[0]
    assert (sent["temperature"], sent["seed"], sent["max_tokens"], sent.get("top_p")) == (0.25, 8, 3, None)
    async with client.post("/v1/completions", json={"model": "small", "prompt": "a b c d e"}) as answer:
        assert answer.status == 200
    assert worker.requests[1]["max_tokens"] == 3


async def test_a_longer_answer_than_the_ceiling_is_cut_short(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any]
) -> None:
    await use(world, ceilings={"max_tokens": 4})
    for given in ({}, {"max_tokens": 1000}, {"max_completion_tokens": 1000}, {"max_tokens": 2}):
        async with client.post(CHAT, json=question | given) as answer:
            assert answer.status == 200
    assert [sent["max_tokens"] for sent in worker.requests] == [4, 4, 4, 2]


@pytest.mark.parametrize("given", [{"n": 3}, {"temperature": 1.5}])
async def test_more_of_anything_else_is_refused_before_a_worker_hears_of_it(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, question: dict[str, Any],
    given: dict[str, Any],
) -> None:  # fmt: skip
    await use(world, ceilings={"n": 2, "temperature": 1})
    async with client.post(CHAT, json=question | given) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "over_key_ceiling", next(iter(given)))
    assert worker.requests == []
    assert await world.reserved() == 0


async def test_each_model_behind_an_alias_answers_and_is_billed_as_itself(
    gateway: RunningGateway, client: aiohttp.ClientSession, world: World, worker: FakeWorker, second: FakeWorker,
    question: dict[str, Any],
) -> None:  # fmt: skip
    world.models["next"] = model_entry(model_id="mod_2")
    world.aliases["chat"] = {"small": 1, "next": 1}
    await world.route("next", route_entry(second.url, "grp_2"))
    await world.applied()
    served = {}
    for number in range(12):
        body = question | {"model": "chat", "prompt_cache_key": f"conversation-{number % 6}", "user": f"u{number}"}
        async with client.post(CHAT, json=body) as answer:
            assert answer.status == 200
            served.setdefault(number % 6, set()).add((await answer.json())["model"])
    assert all(len(models) == 1 for models in served.values())
    assert set().union(*served.values()) == {"small", "next"}
    events = await world.until_events(12)
    assert {(event["model"], event["model_id"]) for event in events} == {("small", "mod_1"), ("next", "mod_2")}
