"""What a run has found: medians with their spread, ratios within rounds, targets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.gateway.crowds import Held, Open
from bench.gateway.footprint import Footprint
from bench.gateway.hydrant import GATEWAY
from bench.gateway.others import LITELLM, ROUTER
from bench.gateway.rounds import Sample, of
from bench.targets import Target, at_least, at_most
from cli.console import table

DIRECT = "direct"
Figure = Callable[[Sample], float | None]
HEADINGS = ("", "requests/s", "(spread)", "tokens/s", "(spread)", "first token ms", "us/request", "us/token", "MB")


@dataclass(frozen=True, slots=True)
class Found:
    """All that was measured."""

    samples: list[Sample]
    held: Held
    streams: Open
    footprint: Footprint


def ratio(samples: Sequence[Sample], figure: Figure, over: str) -> float | None:
    """Hydrant's figure over another's, the median of the rounds' ratios; None where either was not measured."""
    ours, theirs = of(samples, GATEWAY), of(samples, over)
    pairs = [(figure(a), figure(b)) for a, b in zip(ours, theirs, strict=False)]
    ratios = [a / b for a, b in pairs if a is not None and b]
    return median(ratios) if ratios else None


def added_ms(samples: Sequence[Sample], variant: str) -> float | None:
    """Time to the first token beyond direct's, the median of the rounds' differences."""
    pairs = list(zip(of(samples, variant), of(samples, DIRECT), strict=False))
    return median(a.first_token_ms - b.first_token_ms for a, b in pairs) if pairs else None


def targets(found: Found) -> list[Target]:
    """What issue 5 promises, from this run."""
    samples, held, streams = found.samples, found.held, found.streams

    def json_rate(sample: Sample) -> float:
        return sample.json_per_s

    def token_rate(sample: Sample) -> float:
        return sample.tokens_per_s

    return [
        at_least("JSON requests/s, Hydrant / LiteLLM proxy", 40, ratio(samples, json_rate, LITELLM), "x"),
        at_least("JSON requests/s, Hydrant / sglang-router", 0.5, ratio(samples, json_rate, ROUTER), "x"),
        at_least("streamed tokens/s, Hydrant / LiteLLM proxy", 60, ratio(samples, token_rate, LITELLM), "x"),
        at_least("streamed tokens/s, Hydrant / sglang-router", 4, ratio(samples, token_rate, ROUTER), "x"),
        at_most("added time to first token, one client, median", 1.5, added_ms(samples, GATEWAY), " ms"),
        at_most(f"{held.count:,} held requests: memory", 300, held.resident_bytes / 1e6, " MB"),
        at_most("another model's p99 meanwhile / unloaded", 2, held.loaded_p99_ms / held.unloaded_p99_ms, "x"),
        at_most(f"{streams.count:,} open streams: errors", 0, streams.errors),
        at_most(f"{streams.count:,} open streams: memory of each", 60, streams.each_bytes / 1e3, " KB"),
        at_most("start to ready, median", 1, found.footprint.start, " s"),
        at_most("memory when ready", 80, median(found.footprint.resident_bytes) / 1e6, " MB"),
        at_most("litellm, SQLAlchemy, Celery imported", 0, len(found.footprint.forbidden)),
    ]


def side_by_side(samples: Sequence[Sample]) -> list[str]:
    """A line for each variant: medians, and the lowest and highest of the rounds."""
    rows = []
    for name in dict.fromkeys(sample.variant for sample in samples):
        mine = of(samples, name)
        rows.append(
            [
                name,
                *_spread([sample.json_per_s for sample in mine]),
                *_spread([sample.tokens_per_s for sample in mine]),
                f"{median(sample.first_token_ms for sample in mine):.2f}",
                _middle([sample.cpu_us_per_request for sample in mine], 1, 0),
                _middle([sample.cpu_us_per_token for sample in mine], 1, 1),
                _middle([sample.resident_bytes for sample in mine], 1e6, 0),
            ]
        )
    return table(HEADINGS, rows, right="0" + "1" * (len(HEADINGS) - 1))


def alone(found: Found) -> list[str]:
    """Hydrant's own figures, a line each."""
    held, streams, start = found.held, found.streams, found.footprint
    return [
        f"{held.count:,} held: {held.resident_bytes / 1e6:.0f} MB; another model's plain answers: median"
        f" {held.unloaded_median_ms:.2f} -> {held.loaded_median_ms:.2f} ms,"
        f" p99 {held.unloaded_p99_ms:.2f} -> {held.loaded_p99_ms:.2f} ms",
        f"{streams.count:,} open streams: {streams.resident_before_bytes / 1e6:.0f} -> "
        f"{streams.resident_bytes / 1e6:.0f} MB, {streams.errors} errors"
        + (f" ({streams.first_error})" if streams.first_error else ""),
        f"start to ready: {start.start:.2f} s, with reading the secrets {median(start.with_secrets_s):.2f} s;"
        f" {median(start.resident_bytes) / 1e6:.0f} MB, {start.modules} modules imported",
    ]


def document(found: Found) -> dict[str, Any]:
    """The measured part of the results file."""
    return {
        "targets": [target.as_json() for target in targets(found)],
        "held": found.held.as_json(),
        "open_streams": found.streams.as_json(),
        "footprint": found.footprint.as_json(),
        "samples": [sample.as_json() for sample in found.samples],
    }


def _spread(values: Sequence[float]) -> tuple[str, str]:
    return f"{median(values):,.0f}", f"{min(values):,.0f}-{max(values):,.0f}"


def _middle(values: Sequence[float | None], unit: float, digits: int) -> str | None:
    present = [value for value in values if value is not None]
    return f"{median(present) / unit:,.{digits}f}" if present else None
