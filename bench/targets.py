"""What a benchmark promises, and whether a run has kept it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and what was measured. `value` None: it was not measured, and the promise is not kept."""

    name: str
    target: str
    value: float | None
    met: bool

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


def at_least(name: str, target: float, value: float | None, unit: str = "") -> Target:
    """A promise that is kept from `target` on."""
    return Target(name, f">= {target:g}{unit}", value, value is not None and value >= target)


def at_most(name: str, target: float, value: float | None, unit: str = "") -> Target:
    """A promise that is kept up to `target`."""
    return Target(name, f"<= {target:.3g}{unit}", value, value is not None and value <= target)


def lines(found: Sequence[Target]) -> list[str]:
    """Headings and a line for each promise."""
    # Here, because bench.gpu has promises too, and runs where only torch is installed.
    from cli.console import table

    rows = [
        [target.name, target.target, "-" if target.value is None else f"{target.value:.3g}", _judged(target)]
        for target in found
    ]
    return table(["target", "", "measured", ""], rows, right="0110")


def _judged(target: Target) -> str:
    if target.value is None:
        return "not measured"
    return "met" if target.met else "MISSED"
