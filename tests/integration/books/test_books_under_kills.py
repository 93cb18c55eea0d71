"""Whatever is killed when: nothing is billed twice, nothing that was answered stays unbilled, and the books agree.

`HYDRANT_KILL_REQUESTS` says how many requests are sent (`make soak` sends ten thousand).
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from support.fake_worker import FakeWorker
from support.leaks import assert_none_in_logs
from support.postgres import PostgresServer
from support.redis_server import RedisServer
from support.served_and_billed import ServedAndBilled

REQUESTS = int(os.environ.get("HYDRANT_KILL_REQUESTS", "400"))
CLIENTS = 16
CALM_SECONDS = 90
pytestmark = pytest.mark.timeout(120 + REQUESTS)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name."""
    place = Path(tempfile.mkdtemp(prefix="hyd-books-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def postgres(place: Path) -> Iterator[PostgresServer]:
    """A server of this test's own: it will be killed."""
    (place / "postgres").mkdir()
    server = PostgresServer(place / "postgres").start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def worker() -> FakeWorker:
    """A worker that takes its time, so that kills meet running requests."""
    worker = await FakeWorker().start()
    worker.token_delay = 0.01
    yield worker
    await worker.stop()


@pytest.fixture
def served(
    place: Path, postgres: PostgresServer, durable_redis_server: RedisServer, worker: FakeWorker
) -> Iterator[ServedAndBilled]:
    """Everything that serves and bills."""
    (place / "home").mkdir()
    with postgres.new_schema() as url:
        # What was committed must be there after a crash, as on any server that is meant to keep anything.
        url += "%20-csynchronous_commit%3Don"
        served = ServedAndBilled(place / "home", durable_redis_server, postgres, worker, url).start()
        yield served
        served.stop()
        assert_none_in_logs(place)


async def under_kills(served: ServedAndBilled, victims: list[str], pause_s: tuple[float, float], seed: int) -> None:
    """Sends all requests while parts are killed at random moments, then waits until the books are closed."""
    chance = random.Random(seed)
    due = chance.sample(victims, len(victims))  # each dies at least once, in the midst of requests
    url = f"http://127.0.0.1:{served.environ['HYDRANT_GATEWAY_PORT']}"

    async def client(session: aiohttp.ClientSession) -> None:
        while len(served.answers) < REQUESTS or due:
            number = len(served.answers)
            await served.ask(session, number, stream=number % 2 == 0)

    kills = Counter[str]()

    async def reaper(asking: asyncio.Future[list[None]]) -> None:
        while due or not asking.done():
            await asyncio.sleep(chance.uniform(*pause_s))
            victim = due.pop() if due else chance.choice(victims)
            await asyncio.to_thread(served.kill, victim)
            kills[victim] += 1

    headers = {"authorization": f"Bearer {served.key}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        asking = asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        await asyncio.gather(asking, reaper(asking))
    outcomes = Counter("whole" if one.usage is not None else one.broke or one.status for one in served.answers)
    print(f"{len(served.answers)} requests: {dict(outcomes)}; kills: {dict(kills)}")
    await asyncio.to_thread(_close_books, served)


def _close_books(served: ServedAndBilled) -> None:
    end = time.monotonic() + CALM_SECONDS
    while (wrong := served.wrong_in_books()) and time.monotonic() < end:
        time.sleep(0.2)
    assert wrong == {}


async def test_each_answer_is_billed_once_whatever_is_killed(served: ServedAndBilled) -> None:
    await under_kills(served, ["gateway", "redis", "ledger", "database"], (1, 3), seed=1)
    billed = served.billed()
    assert {request: len(rows) for request, rows in billed.items() if len(rows) > 1} == {}
    whole = [answer for answer in served.answers if answer.usage is not None]
    assert len(whole) > REQUESTS // 10, "hardly a request was answered: nothing is shown"
    costs = {answer.request_id: sum(row.cost_nusd for row in billed.get(answer.request_id, ())) for answer in whole}
    assert costs == {answer.request_id: served.cost(answer.usage or {}) for answer in whole}
    asked = {answer.request_id for answer in served.answers}
    assert billed.keys() <= asked
    refused = {answer.request_id for answer in served.answers if answer.status not in (200, None)}
    assert billed.keys() & refused == set()


async def test_books_agree_after_redis_has_lost_everything(served: ServedAndBilled) -> None:
    await under_kills(served, ["redis and all it knew", "gateway"], (4, 9), seed=2)
    billed = served.billed()
    assert {request: len(rows) for request, rows in billed.items() if len(rows) > 1} == {}
    for answer in served.answers:
        if answer.usage is not None and answer.request_id in billed:
            assert sum(row.cost_nusd for row in billed[answer.request_id]) == served.cost(answer.usage)
