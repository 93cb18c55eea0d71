"""What noded asks an engine over HTTP: one token to prove that it serves, and its own token counters."""

from __future__ import annotations

import json
import time
from typing import Any

import aiohttp

from engine.noded.effects import Launch

PROBE_TIMEOUT_S = 60.0
COUNTERS_TIMEOUT_S = 5.0

COUNTERS = {
    "prompt_tokens": "sglang:prompt_tokens_total",
    "cached_tokens": "sglang:cached_tokens_total",
    "completion_tokens": "sglang:generation_tokens_total",
}
"""Our names, and those of SGLang's Prometheus counters (observability/metrics_collector.py)."""


class WorkerError(Exception):
    """The engine did not give an answer that can be used; the message says what came instead."""


class WorkerSilent(WorkerError):
    """The engine took the question and has not answered in time."""


async def probe(session: aiohttp.ClientSession, url: str, launch: Launch) -> tuple[int, dict[str, int]]:
    """Milliseconds that one token (or one embedding) took, and the tokens that the engine counted for it.

    Raises WorkerError, WorkerSilent after PROBE_TIMEOUT_S.
    """
    path, body = "/v1/completions", {"model": launch.model_name, "prompt": "a", "max_tokens": 1, "temperature": 0}
    if launch.settings.embedding:
        path, body = "/v1/embeddings", {"model": launch.model_name, "input": "a"}
    began = time.monotonic()
    answer = await _call(session, "POST", url + path, launch.api_key, PROBE_TIMEOUT_S, body)
    wanted = "data" if launch.settings.embedding else "choices"
    try:
        content = json.loads(answer)
        usage = content["usage"]
        if not content[wanted]:
            raise KeyError(wanted)
        details = usage.get("prompt_tokens_details") or {}
        used = {
            "prompt_tokens": int(usage["prompt_tokens"]),
            "cached_tokens": int(details.get("cached_tokens") or 0),
            "completion_tokens": int(usage.get("completion_tokens") or 0),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise WorkerError(f"the answer lacks {error}: {answer[:200]!r}") from None
    return round((time.monotonic() - began) * 1000), used


async def counters(session: aiohttp.ClientSession, url: str, launch: Launch) -> dict[str, int]:
    """The engine's token counts since its start. Raises WorkerError."""
    text = await _call(session, "GET", url + "/metrics", launch.api_key, COUNTERS_TIMEOUT_S)
    return parse_counters(text.decode())


def parse_counters(text: str) -> dict[str, int]:
    """Token counts from Prometheus text, summed over labels; a counter that has not counted yet is 0."""
    sums = dict.fromkeys(COUNTERS, 0.0)
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        for ours, theirs in COUNTERS.items():
            if name == theirs:
                sums[ours] += float(line.rsplit(" ", 1)[1])
    return {name: round(value) for name, value in sums.items()}


async def _call(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    api_key: str,
    timeout_s: float,
    body: dict[str, Any] | None = None,
) -> bytes:
    headers = {"Authorization": f"Bearer {api_key}"}
    try:
        async with session.request(
            method, url, json=body, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s)
        ) as response:
            content = await response.read()
            if response.status != 200:
                raise WorkerError(f"the engine answered {response.status}: {content[:200].decode(errors='replace')}")
            return content
    except (TimeoutError, aiohttp.ClientError) as error:
        kind = WorkerSilent if isinstance(error, TimeoutError) else WorkerError
        raise kind(f"the engine does not answer: {type(error).__name__}: {error}") from error
