"""A gateway and a hosted process as the Procfile runs them, before a small worker and a stand-in of providers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import Any

from support.engine_node import short_directory
from support.fake_provider import FakeProvider
from support.fake_worker import FakeWorker
from support.gateway_process import World, model_entry, route_entry
from support.hosted_process import HostedProcess
from support.real_service import gateway_process
from support.redis_server import RedisServer

GENERATING, EMBEDDING = ("small", "lite", "provided", "tiny"), ("vectors", "provided-vectors")
"""The names of models and aliases, by what they do; `tiny` is an alias of `small`."""
# Answers are short, whatever is asked for.
_CONTEXT = 8


@contextmanager
def inference_site() -> Iterator[str]:
    """The base URL of the gateway. All its models are ready, and the tenant is rich."""
    with ExitStack() as stack:
        home = stack.enter_context(short_directory())
        redis = RedisServer(home).start()
        stack.callback(redis.stop)
        hosted = HostedProcess(home)
        hosted.start()
        stack.callback(hosted.stop)
        run = stack.enter_context(_background_loop())
        worker, provider = run(FakeWorker().start()), run(FakeProvider().start())
        stack.callback(lambda: (run(worker.stop()), run(provider.stop())))
        run(_publish(redis.url, worker.url, provider.url))
        url = stack.enter_context(gateway_process(redis, home, hosted))
        hosted.until_healthy()
        yield url


@contextmanager
def _background_loop() -> Iterator[Any]:
    """Runs coroutines to their end on a loop in another thread, where what they have started goes on."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, loop)
        return done.result(30)

    try:
        yield run
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _publish(redis_url: str, worker_url: str, provider_url: str) -> None:
    world = World(redis_url)
    provider = {"model": "openai/gpt-4.1-mini", "api_base": provider_url, "key_env": "STAND_IN_API_KEY"}
    world.models = {
        "small": model_entry(context_length=_CONTEXT),
        "lite": model_entry(context_length=_CONTEXT, model_id="mod_2", lane="litellm"),
        "vectors": model_entry(context_length=_CONTEXT, model_id="mod_3", embedding=True),
        "provided": model_entry(context_length=_CONTEXT, model_id="mod_4", lane="hosted", provider=provider),
        "provided-vectors": model_entry(
            context_length=_CONTEXT, model_id="mod_5", lane="hosted", provider=provider, embedding=True
        ),
    }
    await world.redis.hset("hyd:balance", "ten_1", 10**15)
    await world.publish()
    for model in ("small", "lite", "vectors"):
        await world.route(model, route_entry(worker_url, f"grp_{model}"))
    await world.redis.aclose()
