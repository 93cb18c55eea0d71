"""The side-by-side part: every variant once a round, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.gateway import load, usage, wrk
from bench.gateway.variant import Variant

JSON_CONNECTIONS = 16
STREAMS = 32


@dataclass(slots=True)
class Sample:
    """One variant in one round. CPU in microseconds of the server's own, memory in bytes; None: it has no process."""

    variant: str
    round: int
    json_per_s: float
    tokens_per_s: float
    first_token_ms: float
    cpu_us_per_request: float | None = None
    cpu_us_per_token: float | None = None
    resident_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each measurement takes: seconds of JSON, of streams, and the number of first tokens."""

    json_s: int = 4
    stream_s: float = 4.0
    first_tokens: int = 100


class _Cpu:
    seconds = 0.0


@contextmanager
def _cpu_of(pid: int | None) -> Iterator[_Cpu]:
    spent = _Cpu()
    before = usage.cpu_seconds(pid) if pid is not None else 0.0
    yield spent
    spent.seconds = usage.cpu_seconds(pid) - before if pid is not None else 0.0


async def measure(variant: Variant, number: int, effort: Effort, scripts: Path) -> Sample:
    """One variant's turn. Raises LoadError."""
    with _cpu_of(variant.pid) as on_json:
        rate = await wrk.requests_per_second(variant, JSON_CONNECTIONS, effort.json_s, scripts)
    with _cpu_of(variant.pid) as on_streams:
        tokens, _ = await load.streamed_per_second(variant, STREAMS, effort.stream_s)
    first = await load.first_tokens(variant, effort.first_tokens)
    sample = Sample(variant.name, number, rate, tokens, 1000 * median(first))
    if variant.pid is not None:
        sample.cpu_us_per_request = 1e6 * on_json.seconds / (rate * effort.json_s)
        sample.cpu_us_per_token = 1e6 * on_streams.seconds / (tokens * (effort.stream_s + load.SETTLE_S))
        sample.resident_bytes = usage.resident_bytes(variant.pid)
    return sample


def of(samples: Sequence[Sample], variant: str) -> list[Sample]:
    """A variant's samples, by round."""
    return [sample for sample in samples if sample.variant == variant]
