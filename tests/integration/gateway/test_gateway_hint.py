"""The hint that a model is wanted, taken by the Celery that it is meant for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiohttp
from support.gateway_process import RunningGateway, World, until

CHAT = "/v1/chat/completions"


async def test_a_real_celery_worker_runs_the_hint(
    cold_gateway: RunningGateway, client: aiohttp.ClientSession, world: World, question: dict[str, Any], tmp_path: Path
) -> None:
    asking = asyncio.create_task(client.post(CHAT, json=question).__aenter__())

    async def hinted() -> bool:
        return await world.redis.llen("control") == 1

    await until(hinted)
    out = tmp_path / "ran"
    (tmp_path / "hintapp.py").write_text(
        "import os\nfrom celery import Celery\n"
        "url = os.environ['BROKER'].replace('unix://', 'redis+socket://')\n"
        "app = Celery('hints', broker=url)\n"
        "app.conf.update(task_serializer='json', accept_content=['json'], broker_connection_retry_on_startup=True)\n"
        "@app.task(name='control.scale')\n"
        f"def scale(model):\n    open({str(out)!r}, 'w').write(model)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "celery", "-A", "hintapp", "worker", "-Q", "control", "-P", "solo", "--without-gossip",
        "--without-mingle", cwd=tmp_path, env={"BROKER": cold_gateway.settings.redis_url, "C_FORCE_ROOT": "1"},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await until(out.exists, seconds=60)
        await until(lambda: out.read_text() == "small")
    finally:
        process.terminate()
        await process.wait()
        asking.cancel()
