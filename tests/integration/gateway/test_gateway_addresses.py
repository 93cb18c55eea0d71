"""Every field by which a request could name an address, on every lane: nobody asks it, and no worker is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from support.fake_provider import FakeProvider
from support.fake_worker import FakeWorker
from support.gateway_process import KEY, RunningGateway, World, model_entry, route_entry
from support.hosted_process import hosted_url
from support.redis_server import RedisServer

__all__ = ["hosted_url"]

CHAT, TEXT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
EMBEDDINGS = "/v1/embeddings"


class Listener:
    """Somebody on loopback who must never be asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> Listener:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _accepted(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        writer.close()


def media(url: str) -> dict[str, list[dict[str, Any]]]:
    """Parts of a message that carry media by address, for each API."""
    named = {"url": url}
    openai = [
        {"type": "image_url", "image_url": named}, {"type": "image_url", "image_url": url},
        {"type": "video_url", "video_url": named}, {"type": "audio_url", "audio_url": named},
        {"type": "input_audio", "input_audio": named}, {"type": "image", "image": url},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "tool_result", "content": [{"type": "image_url", "image_url": named}]},
        {"type": "file", "file": {"file_id": url}}, {"type": "file", "file": {"file_data": url}},
        {"type": "file", "file": {"file_id": url, "format": "video/mp4"}}, {"type": "input_image", "image_url": url},
        {"type": "input_file", "file_url": url}, {"type": "document", "source": {"type": "url", "url": url}},
        {"type": "video", "video": url}, {"type": "audio", "audio": url},
    ]  # fmt: skip
    anthropic = [
        {"type": kind, "source": source}
        for kind in ("image", "document")
        for source in (
            {"type": "url", "url": url},
            {"type": "base64", "media_type": "image/png", "data": "", "url": url},
        )
    ]
    anthropic.append({"type": "tool_result", "tool_use_id": "t", "content": [anthropic[0]]})
    responses = [
        {"type": "input_image", "image_url": url}, {"type": "input_image", "image_url": named},
        {"type": "input_file", "file_url": url}, {"type": "input_video", "video_url": url},
        {"type": "image_url", "image_url": named}, {"type": "input_audio", "input_audio": named},
    ]  # fmt: skip
    return {CHAT: openai, MESSAGES: anthropic, RESPONSES: responses}


def fields(url: str) -> list[dict[str, Any]]:
    """Fields of a body that litellm, an SDK or an engine takes an address from."""
    names = (
        "api_base",
        "base_url",
        "api_url",
        "endpoint",
        "azure_endpoint",
        "proxy",
        "proxy_url",
        "webhook",
        "callback",
    )
    tools = [
        {"type": "mcp", "server_label": "x", "server_url": url},
        {"type": "mcp", "server_url": url, "require_approval": "never"},
        {"type": "web_search", "url": url}, {"type": "url", "url": url},
        {"type": "web_fetch_20250910", "name": "web_fetch"},
    ]  # fmt: skip
    return [
        *({name: url} for name in names), *({"tools": [tool]} for tool in tools),
        {"mcp_servers": [{"type": "url", "url": url, "name": "x"}]}, {"metadata": {"api_base": url, "url": url}},
        {"litellm_params": {"api_base": url}}, {"extra_body": {"api_base": url}},
        {"fallbacks": [{"model": "x", "api_base": url}]},
        {"extra_headers": {"x-hydrant-upstream-url": url}}, {"headers": {"x-hydrant-upstream-url": url}},
        {"litellm_metadata": {"api_base": url}}, {"model_list": [{"litellm_params": {"api_base": url}}]},
        {"success_callback": [url]}, {"litellm_logging_obj": url},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}},
        {"bootstrap_host": "127.0.0.1", "bootstrap_port": int(url.rsplit(":", 1)[1])},
    ]  # fmt: skip


def body_of(path: str, model: str) -> dict[str, Any]:
    if path == EMBEDDINGS:
        return {"model": model, "input": "x"}
    if path == RESPONSES:
        return {"model": model, "input": "x", "max_output_tokens": 2}
    said = {"prompt": "x"} if path == TEXT else {"messages": [{"role": "user", "content": "x"}]}
    return {"model": model, "max_tokens": 2} | said


@pytest_asyncio.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = await Listener().start()
    yield listener
    await listener.stop()


@pytest_asyncio.fixture
async def client(
    world: World, worker: FakeWorker, redis_server: RedisServer, hosted_url: str, tmp_path: Path
) -> AsyncIterator[aiohttp.ClientSession]:
    """Of a gateway with a model on each lane."""
    provider = await FakeProvider().start()
    told = {"model": "openai/gpt-4.1-mini", "api_base": provider.url, "key_env": "STAND_IN_API_KEY"}
    world.models |= {
        "lite": model_entry(lane="litellm", model_id="mod_2"),
        "hosted": model_entry(lane="hosted", model_id="mod_3", provider=told),
        "vectors": model_entry(embedding=True, model_id="mod_4"),
    }
    await world.redis.hset("hyd:balance", "ten_1", 10**15)
    await world.publish()
    for model in ("small", "lite", "vectors"):
        await world.route(model, route_entry(worker.url))
    gateway = await RunningGateway(redis_server.url, tmp_path, hosted_url=hosted_url).start()
    async with aiohttp.ClientSession(gateway.url, headers={"authorization": f"Bearer {KEY}"}) as session:
        yield session
    await gateway.stop()
    await provider.stop()


LANES = [
    (CHAT, "small"), (CHAT, "lite"), (CHAT, "hosted"), (TEXT, "small"), (TEXT, "lite"), (MESSAGES, "small"),
    (MESSAGES, "hosted"), (RESPONSES, "small"), (EMBEDDINGS, "vectors"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "model"), LANES)
async def test_no_field_leads_to_an_address(
    client: aiohttp.ClientSession, listener: Listener, worker: FakeWorker, path: str, model: str
) -> None:
    headers = dict.fromkeys(("x-hydrant-upstream-url", "x-hydrant-provider", "x-api-base", "referer"), listener.url)
    async with client.post(path, json=body_of(path, model), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
    for field in fields(listener.url):
        async with client.post(path, json=body_of(path, model) | field) as answer:
            assert answer.status in (200, 400), (field, await answer.text())
    for part in media(listener.url).get(path, ()):
        message = {"role": "user", "content": [part]}
        said = {"input": [message]} if path == RESPONSES else {"messages": [message]}
        worker.requests.clear()
        async with client.post(path, json=body_of(path, model) | said) as answer:
            # A worker would fetch it: it must not even hear of it, unless in a part of which it knows nothing.
            heard = [json.dumps(request) for request in worker.requests if listener.url in json.dumps(request)]
            assert answer.status == 400 or not heard, (part, heard)
    assert listener.asked == 0
