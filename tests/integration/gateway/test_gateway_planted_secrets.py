"""Recognisable secrets and words, planted everywhere a gateway and the hosted process are given some, and looked for in
all that they put out: logs (with the access log on), error bodies and heads, metrics, traces, and Redis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.fake_provider import PROVIDER_KEY, FakeProvider
from support.fake_worker import FakeWorker
from support.gateway_child import CHAT, running
from support.gateway_process import (
    HOSTED_SECRET,
    KEY,
    PEPPER,
    World,
    environment,
    hash_key,
    model_entry,
    route_entry,
    tenant_entry,
)
from support.hosted_process import HostedProcess, own_hosted
from support.redis_server import RedisServer
from support.span_receiver import span_receiver

__all__ = ["own_hosted"]

PROMPT, SALT, TOKEN, WORKER_KEY = (
    "planted-prompt-words",
    "planted-tenant-salt",
    "hym-planted-token",
    "planted-worker-key",
)
SECRETS = {
    "API key": KEY, "pepper": PEPPER.decode(), "hosted secret": HOSTED_SECRET, "provider key": PROVIDER_KEY,
    "prompt": PROMPT, "salt": SALT, "management token": TOKEN, "worker key": WORKER_KEY,
    "key hash": hash_key(KEY, PEPPER),
}  # fmt: skip
# Where the control plane itself puts them for gateways (docs/interfaces.md).
GIVEN = {b"hyd:snapshot", b"hyd:routes"}


async def test_planted_secrets_are_in_nothing_that_is_put_out(
    world: World, redis_server: RedisServer, own_hosted: HostedProcess, worker: FakeWorker, tmp_path: Path
) -> None:
    provider = await FakeProvider().start()
    worker.api_key = WORKER_KEY
    hosted = {"model": "openai/gpt-4.1-mini", "api_base": provider.url, "key_env": "STAND_IN_API_KEY"}
    world.tenants["ten_1"] = tenant_entry(salt=SALT)
    world.models["lite"] = model_entry(lane="litellm", model_id="mod_2")
    world.models["hosted"] = model_entry(lane="hosted", model_id="mod_3", provider=hosted)
    world.hold["deadline_s"] = 0.2
    await world.publish()
    for model in ("small", "lite"):
        await world.route(model, route_entry(worker.url, api_key=WORKER_KEY))
    out: dict[str, bytes] = {}
    with span_receiver() as receiver, (tmp_path / "log").open("w+b") as log:
        environ = environment(
            redis_server, tmp_path, HYDRANT_ACCESS_LOG="1", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            HYDRANT_HOSTED_PORT=own_hosted.url.rsplit(":", 1)[1],
        )  # fmt: skip
        async with running(environ, log) as (_, client):
            await world.until_read()

            async def ask(name: str, status: int, **changes: Any) -> None:
                body = {"model": "small", "max_tokens": 3, "messages": [{"role": "user", "content": PROMPT}]}
                headers = {"idempotency-key": TOKEN} if name == "keyed" else {}
                async with client.post(CHAT, json=body | changes, headers=headers) as answer:
                    assert answer.status == status, (name, await answer.text())
                    out[name] = repr(answer.raw_headers).encode() + await answer.read()

            for model in ("small", "lite", "hosted"):
                await ask(f"plain by {model}", 200, model=model)
                await ask(f"stream by {model}", 200, model=model, stream=True)
            await ask("keyed", 200)
            await ask("a wrong field", 400, n=0)
            provider.refuse = (401, {"error": {"message": f"no key {PROVIDER_KEY}"}}, {})
            await ask("a provider that tells the key", 502, model="hosted")
            worker.refuse = (500, {"message": f"boom {WORKER_KEY} {PROMPT}"})
            await ask("a worker that tells all", 502)
            await ask("a worker that tells all, by litellm", 502, model="lite")
            await worker.stop()
            await ask("no worker", 504)
            async with client.get("/key/info", headers={"authorization": f"Bearer {TOKEN}"}) as answer:
                out["no admin process"] = await answer.read()
            async with client.get("/metrics") as answer:
                out["metrics"] = await answer.read()
            await world.until_events(12)
        log.seek(0)
        out["the gateway's log"] = log.read()
        out["the hosted process' log"] = own_hosted.log().encode()
        out["traces"] = receiver.raw
    assert receiver.spans
    assert b"logger=gateway.access" in out["the gateway's log"]
    await provider.stop()
    redis = world.redis
    for name in await redis.keys("*"):
        if name.encode() not in GIVEN:
            kind = await redis.type(name)
            read = {"hash": redis.hgetall, "string": redis.get, "set": redis.smembers, "stream": redis.xrange}
            listed = {"list": redis.lrange, "zset": redis.zrange}
            value = await (read[kind](name) if kind in read else listed[kind](name, 0, -1))
            out[f"Redis {name}"] = (name + json.dumps(value, default=list)).encode()
    found = [
        f"{what} in {where}"
        for what, secret in SECRETS.items()
        for where, text in out.items()
        if secret.encode() in text
    ]
    assert not found
