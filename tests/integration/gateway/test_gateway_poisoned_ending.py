"""Endings that go to Redis in one call, where one of them cannot be taken."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import orjson
import redis.asyncio
from support.redis_server import RedisServer

from gateway.accounting.admission import Admission
from gateway.accounting.allowance import Allowance
from gateway.accounting.attempts import Account, Attempt
from gateway.accounting.metering import Metering
from gateway.accounting.scripts import Scripts
from gateway.accounting.spool import Spool
from gateway.celery_message import CeleryHints
from gateway.draining import until_none
from gateway.readmodel.snapshot import Price

PRICE = Price("prc_1", 1, 1, 1, 0)
ACCOUNT = Account("req_1", "ten_1", "key_1", "m", "mod_1", PRICE, "direct", "/v1/completions", False, "gw_1")


def attempt(name: str) -> Attempt:
    return Attempt(ACCOUNT, 5, 0, 1, attempt_id=name, group_id="grp_1")


async def until(metering: Metering, unpublished: int) -> None:
    await until_none(lambda: metering.unpublished - unpublished, 10)
    assert metering.unpublished == unpublished


async def test_an_ending_that_redis_never_takes_keeps_no_other(redis_server: RedisServer, tmp_path: Path) -> None:
    async with redis.asyncio.Redis.from_url(redis_server.url) as client, aclosing(Scripts(client)) as scripts:
        await client.flushall()
        spool = Spool(tmp_path, "gw_1")
        metering = Metering(Admission(client, scripts), spool, CeleryHints(client), Allowance(None))
        publishing = asyncio.create_task(metering.publish_forever())
        metering.finish(attempt("att_first"), "ok")
        await until(metering, 0)
        # What no gateway writes: the script cannot count with it.
        await client.hset("hyd:attempts", "att_bad", "{}")
        for name in ("att_a", "att_bad", "att_b"):
            metering.finish(attempt(name), "ok")
        await until(metering, 1)
        events = [orjson.loads(fields[b"event"])["attempt_id"] for _, fields in await client.xrange("hyd:usage")]
        # The ledger counts one that is published twice once.
        assert set(events) == {"att_first", "att_a", "att_b"}
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        spool.close()
