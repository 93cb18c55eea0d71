"""`python -m gateway` as the Procfile runs it: several workers, SIGTERM, SIGKILL, missing settings."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
from support.fake_worker import FakeWorker
from support.gateway_child import CHAT, ROOT, running
from support.gateway_process import KEY, World, environment, route_entry, until
from support.redis_server import RedisServer


async def test_several_processes_share_the_port_and_sum_their_metrics(
    worker: FakeWorker, durable_redis_server: RedisServer, tmp_path: Path, question: dict[str, Any]
) -> None:
    world = World(durable_redis_server.url)
    await world.publish()
    await world.route("small", route_entry(worker.url))
    environ = environment(durable_redis_server, tmp_path, HYDRANT_GATEWAY_WORKERS="2")
    async with running(environ) as (process, _):
        url = f"http://127.0.0.1:{environ['HYDRANT_GATEWAY_PORT']}"

        async def both_beat() -> bool:
            return await world.redis.hlen("hyd:gateways") == 2

        await until(both_beat, seconds=30)
        await world.until_read()
        for _ in range(8):
            # A connection of its own each time, so that both processes get some.
            async with (
                aiohttp.ClientSession(url, headers={"authorization": f"Bearer {KEY}"}) as client,
                client.post(CHAT, json=question) as answer,
            ):
                assert answer.status == 200
                await answer.read()
        assert len(await world.until_events(8)) == 8

        async def all_counted() -> bool:
            async with aiohttp.ClientSession(url) as client, client.get("/metrics") as answer:
                lines = (await answer.text()).splitlines()
            total = sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("hydrant_requests_total{"))
            return total >= 8

        # What the other process has counted comes with its next pulse.
        await until(all_counted)
        assert len({event["gateway_id"] for event in await world.events()}) <= 2
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) in (0, -signal.SIGTERM)
    assert await world.redis.hlen("hyd:gateways") == 0
    assert list((tmp_path / "spool").iterdir()) == []
    await world.redis.aclose()


async def test_a_killed_gateway_leaves_a_checkpoint_and_the_next_one_serves(
    world: World, worker: FakeWorker, redis_server: RedisServer, tmp_path: Path, question: dict[str, Any]
) -> None:
    await world.route("small", route_entry(worker.url))
    worker.token_delay = 0.05

    async def checkpointed() -> bool:
        return any(json.loads(text)["completion_tokens"] for text in await world.redis.hvals("hyd:attempts"))

    async with (
        running(environment(redis_server, tmp_path)) as (process, client),
        client.post(CHAT, json=question | {"stream": True, "max_tokens": 1000}) as answer,
    ):
        assert answer.status == 200
        await until(checkpointed)
        process.kill()
        await process.wait()
    (attempt,) = [json.loads(text) for text in await world.redis.hvals("hyd:attempts")]
    assert attempt["completion_tokens"] > 0
    assert "outcome" not in attempt
    assert await world.redis.hexists("hyd:gateways", attempt["gateway_id"])
    await until(lambda: worker.active == 0)
    worker.token_delay = 0
    async with (
        running(environment(redis_server, tmp_path)) as (_, client),
        client.post(CHAT, json=question) as answer,
    ):
        assert answer.status == 200


async def test_a_missing_secret_is_one_clear_line(tmp_path: Path, redis_server: RedisServer) -> None:
    environ = environment(redis_server, tmp_path)
    del environ["HYDRANT_KEY_PEPPER"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", cwd=ROOT, env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().count("\n") == 1
    assert "HYDRANT_KEY_PEPPER" in errors.decode()


async def test_log_lines_bear_the_id_of_the_request_and_no_word_of_it(
    world: World, worker: FakeWorker, redis_server: RedisServer, tmp_path: Path, question: dict[str, Any]
) -> None:
    await world.route("small", route_entry(worker.url))
    environ = environment(redis_server, tmp_path, HYDRANT_ACCESS_LOG="1")
    with (tmp_path / "log").open("w+b") as log:
        async with running(environ, log) as (_, client):
            await world.until_read()
            worker.refuse = (500, {"error": {"message": "broken"}})
            async with client.post(CHAT, json=question, headers={"x-request-id": "req-of-mine"}) as answer:
                assert answer.status == 502
        log.seek(0)
        text = log.read().decode()
    lines = [line for line in text.splitlines() if "request_id=req-of-mine" in line]
    assert any("level=warning" in line and "failed: status 500" in line for line in lines)
    (answered,) = [line for line in lines if "logger=gateway.access" in line]
    assert "event=answered" in answered
    assert f"endpoint={CHAT}" in answered
    assert "status=502" in answered
    assert not [secret for secret in (KEY, question["messages"][0]["content"], "broken") if secret in text]


async def test_an_answer_that_outlives_the_drain_time_is_cut_and_billed_as_such(
    world: World, worker: FakeWorker, redis_server: RedisServer, tmp_path: Path, question: dict[str, Any]
) -> None:
    await world.route("small", route_entry(worker.url))
    worker.token_delay = 0.05
    environ = environment(redis_server, tmp_path, HYDRANT_DRAIN_TIMEOUT_S="1")
    with (tmp_path / "log").open("w+b") as log:
        async with (
            running(environ, log) as (process, client),
            client.post(CHAT, json=question | {"stream": True, "max_tokens": 1000}) as answer,
        ):
            await answer.content.readuntil(b"\n\n")
            process.send_signal(signal.SIGTERM)
            assert b"gateway_restarting" in await answer.read()
            assert await asyncio.wait_for(process.wait(), 20) in (0, -signal.SIGTERM)
        log.seek(0)
        text = log.read().decode()
    (event,) = await world.events()
    assert event["outcome"] == "gateway_stopped"
    assert event["completion_tokens"] > 0
    assert "Exception" not in text
