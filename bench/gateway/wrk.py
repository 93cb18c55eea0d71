"""JSON requests per second, by wrk."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

from bench.gateway.client import CHAT, LoadError, request_bytes
from bench.gateway.variant import Variant

_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
_TOTAL = re.compile(r"([0-9]+) requests in")


def is_there() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


async def requests_per_second(variant: Variant, connections: int, seconds: int, scripts: Path) -> float:
    """Chat requests that wait for their whole answer, from `connections` clients. Raises LoadError."""
    body = request_bytes(variant).split(b"\r\n\r\n", 1)[1].decode()
    script = scripts / f"{variant.name}.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = [==[{body}]==]\n"
        'wrk.headers["content-type"] = "application/json"\n'
        f'wrk.headers["authorization"] = "Bearer {variant.api_key}"\n'
    )
    process = await asyncio.create_subprocess_exec(
        "wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--script",
        str(script), f"http://127.0.0.1:{variant.port}{CHAT}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds + 30)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise LoadError(f"wrk did not end; does {variant.name} still answer?") from None
    return parse(output.decode())


def parse(output: str) -> float:
    """The rate that wrk has printed. Raises LoadError where requests failed or none was answered."""
    for line in output.splitlines():
        if line.strip().startswith(("Non-2xx", "Socket errors")):
            raise LoadError(f"not every request was answered with 200: {line.strip()}")
    rate, total = _RATE.search(output), _TOTAL.search(output)
    if rate is None or total is None or int(total[1]) == 0:
        raise LoadError(f"wrk has measured nothing:\n{output}")
    return float(rate[1])
