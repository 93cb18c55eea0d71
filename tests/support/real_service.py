"""A gateway and a hosted process before two real SGLang engines on one node: a chat and an embedding model's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.engine_node import ENGINE_PYTHON, ROOT, EngineNode, free_ports, short_directory
from support.gateway_process import (
    KEY,
    OTHER_KEY,
    PEPPER,
    World,
    environment,
    key_entry,
    model_entry,
    route_entry,
    tenant_entry,
)
from support.hosted_process import START_SECONDS, HostedProcess
from support.manifest import API_KEY, launch_effect, prefetch_effect
from support.redis_server import RedisServer

from gateway.readmodel.snapshot import hash_key

CHAT_MODEL, EMBEDDING_MODEL, ASLEEP_MODEL = "smollm2", "tiny-vectors", "asleep"
LIMITED_KEY = "hyd-limited0-" + "l" * 43
"""Allows one request a minute."""
NARROW_KEY = "hyd-narrow00-" + "n" * 43
"""May use the embedding model only."""
BRIEF_KEY = "hyd-brief000-" + "b" * 43
"""Gets short answers, whatever it asks for, one at a time; of a rich tenant."""
POOR_KEY = OTHER_KEY
"""Of a tenant without money."""
_MODELS = Path("~/.cache/hydrant/models").expanduser()


class RealService:
    """Where clients point their SDK at. `engines` has each model's own SGLang."""

    def __init__(self, url: str, engines: dict[str, str], redis_url: str) -> None:
        self.url = url
        self.engines = engines
        self.key = KEY
        self._redis_url = redis_url

    def in_world(self, work: Callable[[World], Awaitable[Any]]) -> Any:
        """Does something to what the gateway reads from Redis."""

        async def run() -> Any:
            world = World(self._redis_url)
            try:
                return await work(world)
            finally:
                await world.redis.aclose()

        return asyncio.run(run())

    def events(self) -> list[dict[str, Any]]:
        """The final usage events."""
        return list(self.in_world(lambda world: world.events()))

    def billed(self, client_call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
        """What a call returned, and the one usage event that it left."""
        before = len(self.events())
        result = client_call()
        (event,) = self.in_world(lambda world: world.until_events(before + 1))[before:]
        return result, event


@contextmanager
def real_service() -> Iterator[RealService]:
    """All of it, running."""
    with ExitStack() as stack:
        home = stack.enter_context(short_directory())
        redis = RedisServer(home, aof=True).start()
        stack.callback(redis.stop)
        # It imports litellm for seconds, while the engines start.
        hosted = HostedProcess(home, stall_s=60)
        hosted.start()
        stack.callback(hosted.stop)
        node = EngineNode(home, "node-c", (31100, 31149), 0)
        stack.callback(node.close)
        routes = _start_engines(node)
        asyncio.run(_publish(redis.url, routes))
        gateway = stack.enter_context(gateway_process(redis, home, hosted))
        hosted.until_healthy()
        engines = {model: route["url"] for model, route in routes.items()}
        yield RealService(gateway, engines, redis.url)


def _prepare(name: str, *options: str) -> Path:
    path = _MODELS / name
    command = [ENGINE_PYTHON, "-m", "engine.prepare_model", "--out", path, *options]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600, stdout=subprocess.DEVNULL)
    return path


def _start_engines(node: EngineNode) -> dict[str, dict[str, Any]]:
    """Starts an engine for each kind of model; the routes to them, by model."""
    chat, tiny = _prepare("SmolLM2-135M-Instruct"), _prepare("tiny-llama", "--random-llama")
    node.start_warm(wait=False)
    node.start_noded()
    node.wait(node.warm_ready, "the warm runtime")
    chat_port, embedding_port = free_ports(2)
    chat_launch = launch_effect(
        "grp_chat", "stg_chat", 0, [30], chat_port, grammar_backend="xgrammar", tool_parser="qwen25"
    )
    embedding_launch = launch_effect("grp_vec", "stg_vec", 0, [4], embedding_port, embedding=True)
    node.apply(
        chat_launch | {"model_name": CHAT_MODEL},
        prefetch_effect(chat, "grp_chat", "stg_chat", 0, [30]),
        embedding_launch | {"model_name": EMBEDDING_MODEL},
        prefetch_effect(tiny, "grp_vec", "stg_vec", 0, [4]),
    )
    for stage in ("stg_chat", "stg_vec"):
        probe = node.wait_probed(stage)["probe"]
        assert probe["ok"], probe
    chat_route = route_entry(f"http://127.0.0.1:{chat_port}", "grp_chat", api_key=API_KEY)
    embedding_route = route_entry(f"http://127.0.0.1:{embedding_port}", "grp_vec", api_key=API_KEY)
    return {CHAT_MODEL: chat_route, EMBEDDING_MODEL: embedding_route}


async def _publish(redis_url: str, routes: dict[str, dict[str, Any]]) -> None:
    world = World(redis_url)
    world.models = {
        CHAT_MODEL: model_entry(default_max_tokens=32),
        EMBEDDING_MODEL: model_entry(model_id="mod_2", embedding=True),
        ASLEEP_MODEL: model_entry(model_id="mod_3"),
    }
    world.aliases = {"my-alias": {CHAT_MODEL: 1}}
    world.keys |= {
        hash_key(LIMITED_KEY, PEPPER): key_entry("key_limited", rpm=1),
        hash_key(BRIEF_KEY, PEPPER): key_entry("key_brief", "ten_3", ceilings={"max_tokens": 3, "n": 2}),
        hash_key(NARROW_KEY, PEPPER): key_entry("key_narrow", models=[EMBEDDING_MODEL]),
    }
    world.tenants["ten_2"] = tenant_entry(salt="salt-2")
    world.tenants["ten_3"] = tenant_entry(salt="salt-3")
    await world.redis.hset("hyd:balance", mapping={"ten_2": 0, "ten_3": 10**15})
    await world.publish()
    for model, route in routes.items():
        await world.route(model, route)
    await world.redis.aclose()


@contextmanager
def gateway_process(redis: RedisServer, home: Path, hosted: HostedProcess) -> Iterator[str]:
    """The URL of a gateway process as the Procfile runs it."""
    environ = environment(redis, home, HYDRANT_HOSTED_PORT=hosted.url.rpartition(":")[2])
    url = f"http://127.0.0.1:{environ['HYDRANT_GATEWAY_PORT']}"
    with (home / "gateway.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "gateway"], cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        _until_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, "the gateway has ended"
        try:
            with urllib.request.urlopen(url + "/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, "the gateway is not ready"
            time.sleep(0.1)
