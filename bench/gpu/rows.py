"""What a measurement gives: samples with a name and a unit, and the table of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(slots=True)
class Row:
    """Samples of one thing, in the order in which they were taken."""

    name: str
    unit: str
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        """The middle of the samples, None without any."""
        return median(self.samples) if self.samples else None

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return {"name": self.name, "unit": self.unit, "median": self.median, "samples": self.samples}


def table(title: str, rows: Sequence[Row]) -> list[str]:
    """A title, and a line for each row: median, smallest to largest, unit."""
    wide = max(len(row.name) for row in rows)
    return [title, *(f"  {row.name:<{wide}}  {_numbers(row)}" for row in rows), ""]


def ratio(over: Row, under: Row) -> float | None:
    """Of the medians; None where one was not measured."""
    return None if over.median is None or not under.median else over.median / under.median


def _numbers(row: Row) -> str:
    if row.median is None:
        return "not measured"
    return f"{row.median:9.3f}  ({min(row.samples):.3f} to {max(row.samples):.3f}) {row.unit}"
