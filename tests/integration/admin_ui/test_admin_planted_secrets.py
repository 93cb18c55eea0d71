"""What admin process, gateway and commands are given in secret is in nothing that they put out: pages, forms shown
again, errors, logs, and what SQL keeps. What is shown once is shown once."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
from support.admin_app import PASSWORD, admin_process
from support.gateway_child import running
from support.gateway_process import World, environment
from support.leaks import assert_none, kept_secrets, leaks, logs_below
from support.postgres import PASSWORD as DATABASE_PASSWORD
from support.redis_server import RedisServer
from support.span_receiver import span_receiver
from support.stack import REDIS_PASSWORD

from registry.db import make_engine, make_session_factory, session_scope
from registry.ops import tokens

TYPED = "sk-typed-into-the-wrong-field"
NEW_PASSWORD = "eleven slow tides"
UNKNOWN_KEY, UNKNOWN_TOKEN = "hyd-unknownn-" + "u" * 43, "hym-unknownn-" + "u" * 43
CSRF = re.compile(r'name="csrf_token"[^>]*value="([^"]+)"')


@pytest.fixture
def home() -> Iterator[Path]:
    """Where the admin process keeps all; short, since sockets lie in it."""
    with TemporaryDirectory(prefix="hyd-planted-") as directory:
        yield Path(directory)


class Asking:
    """One client, that keeps what it was answered."""

    def __init__(self, client: aiohttp.ClientSession, kept: dict[str, str]) -> None:
        self.client = client
        self.kept = kept

    async def ask(self, method: str, path: str, status: int, *, keep: bool = True, **options: Any) -> str:
        async with self.client.request(method, path, **options) as answer:
            text = await answer.text()
            assert answer.status == status, (method, path, answer.status, text)
            if keep:
                self.kept[f"{method} {path[:20]}, #{len(self.kept)}"] = f"{answer.raw_headers} {text}"
            return text

    async def form(self, path: str, status: int, *, keep: bool = True, **fields: str) -> str:
        """Sends a form with the token of a page."""
        async with self.client.get("/account/password") as page:
            token = CSRF.search(await page.text())
        assert token is not None
        return await self.ask("POST", path, status, keep=keep, data={"csrf_token": token[1], **fields})


async def by_programs(client: Asking) -> list[str]:
    """What programs ask, rightly and wrongly; the keys that were made."""
    await client.ask("POST", "/admin/v1/tenants", 201, json={"name": "acme"})
    by_api = await client.ask("POST", "/admin/v1/keys", 201, keep=False, json={"tenant": "acme", "name": "a"})
    by_litellm = await client.ask("POST", "/key/generate", 200, keep=False, json={"key_alias": "b"})
    keys = [json.loads(by_api)["plaintext"], json.loads(by_litellm)["key"]]
    await client.ask("POST", "/key/update", 200, json={"key": keys[1], "rpm_limit": 5})
    await client.ask("POST", "/key/update", 400, json={"key": keys[1], "guardrails": ["x"]})
    await client.ask("POST", "/key/update", 404, json={"key": UNKNOWN_KEY})
    await client.ask("POST", "/key/generate", 400, json={"key": TYPED})
    await client.ask("POST", "/key/delete", 404, json={"keys": [keys[0], UNKNOWN_KEY]})
    await client.ask("GET", f"/admin/v1/keys/{UNKNOWN_KEY}", 404)
    await client.ask("GET", f"/key/info?key={UNKNOWN_KEY}", 404)
    await client.ask("GET", f"/key/info?key={keys[0]}", 200, keep=False)  # tells what it was asked about, as LiteLLM
    await client.ask("POST", "/admin/v1/keys", 400, data=f'{{"name": "{UNKNOWN_KEY}"')
    model = {"name": "m", "source": f"https://me:{TYPED}@models.example/x", "input_nusd": 1, "output_nusd": 1}
    await client.ask("POST", "/admin/v1/models", 400, json=model)
    await client.ask("POST", "/user/new", 400, json={"user_id": "ada", "password": TYPED})
    await client.ask("GET", "/admin/v1/keys", 401, headers={"authorization": f"Bearer {UNKNOWN_TOKEN}"})
    await client.ask("GET", "/admin/v1/keys", 401, headers={"authorization": f"Bearer {keys[0]}"})
    hosted = {"model": "openai/gpt-4.1-mini", "api_key": TYPED, "input_cost_per_token": 0, "output_cost_per_token": 0}
    await client.ask("POST", "/model/new", 400, json={"model_name": "gpt", "litellm_params": hosted})
    for path in ("/admin/v1/keys", "/admin/v1/audit", "/admin/v1/tenants", "/spend/logs", "/model/info"):
        await client.ask("GET", path, 200)
    return keys


async def by_a_person(client: Asking, key: str) -> list[str]:
    """What a person does and mistypes; the secrets that were made."""
    await client.form("/login", 401, email="owner@example.org", password=NEW_PASSWORD)
    await client.ask("POST", "/login", 400, data={"email": "owner@example.org", "password": PASSWORD})
    await client.form("/login", 200, email="owner@example.org", password=PASSWORD)
    wrong = {"current": PASSWORD, "password": NEW_PASSWORD, "again": NEW_PASSWORD + " not"}
    await client.form("/account/password", 422, **wrong)
    await client.form("/account/password", 422, **wrong | {"current": TYPED, "again": NEW_PASSWORD})
    user = await client.form("/users/new", 200, keep=False, email="new@example.org", role="viewer")
    token = await client.form("/tokens/new", 200, keep=False, name="ci", role="viewer", expires="90")
    await client.form("/tokens/new", 422, name="", role="viewer", expires="90")
    hosted = {"name": "gpt", "provider_model": "openai/gpt-4.1-mini", "key_env": TYPED, "input": "1", "output": "1"}
    await client.form("/models/hosted/new", 422, **hosted)
    away = f"https://me:{TYPED}@models.example/x"
    await client.form("/models/hosted/new", 422, **hosted | {"key_env": "OPENAI_API_KEY", "api_base": away})
    for source in (away, f"https://models.example/x?token={TYPED}"):
        await client.form("/models/new", 422, name="m", source=source, input="1", output="1")
    await client.ask("GET", f"/keys/{key}", 404)
    for path in ("/", "/keys", "/tokens", "/users", "/audit", "/account/password", "/models/hosted/new"):
        await client.ask("GET", path, 200)
    one_time = re.search(r'value="([^"]{12,})"[^>]*readonly|readonly[^>]*value="([^"]{12,})"', user)
    made = re.search(r"hym-[0-9a-z]{8}-[A-Za-z0-9_-]{43}", token)
    assert one_time is not None, user
    assert made is not None, token
    await client.form("/account/password", 200, **wrong | {"again": NEW_PASSWORD})
    return [one_time[1] or one_time[2], made[0]]


def commands(home: Path) -> Iterator[tuple[str, str]]:
    """What commands print: with all well, and with a database and a Redis that cannot be reached."""
    away = {
        "REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:1/0",
        "DATABASE_URL": f"postgresql://hydrant:{DATABASE_PASSWORD}@127.0.0.1:1/none",
    }
    for arguments, variables in (
        (["doctor", "--control-only", "--json"], away), (["doctor", "--control-only"], away),
        (["status", "--json"], {}), (["key", "list", "--json"], {}), (["token", "list", "--json"], {}),
        (["status"], away), (["key", "list"], away),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            env={"PATH": "/usr/bin", "HYDRANT_HOME": str(home), **variables},
            capture_output=True,
            timeout=60,
            check=False,
        )
        yield " ".join(arguments), (done.stdout + done.stderr).decode()


def sql_below(home: Path) -> dict[str, str]:
    """All that SQLite keeps, as bytes: rows, the audit log's too, and its write-ahead log."""
    return {path.name: path.read_bytes().decode("latin-1") for path in home.glob("hydrant.db*")}


async def test_no_secret_is_in_what_is_put_out(home: Path, redis_server: RedisServer) -> None:
    process = admin_process(home, redis_server.url)
    address = await asyncio.to_thread(process.__enter__)
    kept: dict[str, str] = {}
    try:
        secrets = kept_secrets(home)
        engine = make_engine(f"sqlite:///{home}/hydrant.db")
        with session_scope(make_session_factory(engine)) as session:
            _, token = tokens.create_token(session, "test", secrets["key_pepper"], name="t", role="owner")
        engine.dispose()
        world = World(redis_server.url)
        await world.publish()
        await world.redis.aclose()
        changes = {"HYDRANT_KEY_PEPPER": secrets["key_pepper"], "HYDRANT_ADMIN_URL": address, "HYDRANT_ACCESS_LOG": "1"}
        with span_receiver() as receiver, (home / "gateway.log").open("wb") as log:
            changes["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
            async with running(environment(redis_server, home, **changes), log) as (_, client):
                client.headers["authorization"] = f"Bearer {token}"
                keys = await by_programs(Asking(client, kept))
        kept["traces"] = receiver.raw.decode("latin-1")
        async with aiohttp.ClientSession(address, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            shown_once = await by_a_person(Asking(browser, kept), keys[0])
        kept |= dict(await asyncio.to_thread(lambda: list(commands(home))))
    finally:
        await asyncio.to_thread(process.__exit__, None, None, None)
    made = {"a key": keys[0], "another key": keys[1], "a password": shown_once[0], "a token": shown_once[1]}
    typed = {"what was typed": TYPED, "a new password": NEW_PASSWORD}
    assert_none(leaks(kept | logs_below(home) | sql_below(home), secrets | made | typed))
