"""`python -m gateway` as a process of its own, the most memory it has taken, and another tenant who must not notice."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
from support.gateway_process import KEY, OTHER_KEY, until

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"


@asynccontextmanager
async def running(
    environ: dict[str, str], log: BinaryIO | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, aiohttp.ClientSession]]:
    """A gateway process that is ready, and a client of it. Without a `log` it writes where the test does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", cwd=ROOT, env=environ,
        stdout=asyncio.subprocess.DEVNULL, stderr=log,
    )  # fmt: skip
    url = f"http://127.0.0.1:{environ['HYDRANT_GATEWAY_PORT']}"
    try:
        async with aiohttp.ClientSession(url, headers={"authorization": f"Bearer {KEY}"}) as client:

            async def ready() -> bool:
                try:
                    async with client.get("/ready") as answer:
                        return answer.status == 200
                except aiohttp.ClientConnectionError:
                    return False

            await until(ready, seconds=60)
            yield process, client
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


class Peak:
    """How many bytes of resident memory a process has taken at most, beyond those it had when this was made."""

    def __init__(self, pid: int) -> None:
        self._directory = Path("/proc") / str(pid)
        (self._directory / "clear_refs").write_text("5")  # the high-water mark starts again from what there is now
        self._before = self._read("VmRSS")

    @property
    def grown(self) -> int:
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        lines = (self._directory / "status").read_text().splitlines()
        (kib,) = [line.split()[1] for line in lines if line.startswith(name + ":")]
        return int(kib) * 1024


@asynccontextmanager
async def another_tenant(url: str, question: dict[str, Any]) -> AsyncIterator[None]:
    """Asks all the time, one request after another, by a key of another tenant; each must be answered."""
    statuses: list[int] = []

    async def ask() -> None:
        headers = {"authorization": f"Bearer {OTHER_KEY}"}
        async with aiohttp.ClientSession(url, headers=headers) as client:
            while True:
                async with client.post(CHAT, json=question, timeout=aiohttp.ClientTimeout(total=20)) as answer:
                    await answer.read()
                    statuses.append(answer.status)
                await asyncio.sleep(0.02)

    asking = asyncio.create_task(ask())
    try:
        await until(lambda: statuses or asking.done())
        yield
        already = len(statuses)
        await until(lambda: len(statuses) > already or asking.done(), 20)
    finally:
        asking.cancel()
        await asyncio.wait({asking})
    assert asking.cancelled(), asking.exception()
    assert set(statuses) == {200}
