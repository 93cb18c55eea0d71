"""The simulator's constants, fitted to the paper's cold starts and to nothing else: `python -m bench.simulate.fit`.

Four for each kind of GPU (see orchestrator/simulator/startup.py for the formulas):

    plain_s         container, libraries, device context, first inference, one after the other
    floor_s         what is left of that when it is overlapped
    fetch_s_per_gb  the link as fetches get it; never better than its nominal rate
    load_s_per_gb   loading into device memory the plain way
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import sqrt
from pathlib import Path
from statistics import mean

from scipy.optimize import minimize

from bench.simulate import paper
from orchestrator.simulator.startup import StartTimes, Style, fetch_at_ms, ready_ms

FROZEN = Path(__file__).with_name("constants.json")
NOMINAL_S_PER_GB = 8 / paper.FIG7_LINK_GBPS
GB = 10**9


@dataclass(frozen=True, slots=True)
class Constants:
    """What is fitted for one kind of GPU."""

    plain_s: float
    floor_s: float
    fetch_s_per_gb: float
    load_s_per_gb: float

    @property
    def times(self) -> StartTimes:
        """As the simulator takes them."""
        return StartTimes(round(1000 * self.plain_s), round(1000 * self.floor_s), round(1000 * self.load_s_per_gb))

    @property
    def link_efficiency(self) -> float:
        """Of the nominal rate, what fetches get."""
        return NOMINAL_S_PER_GB / self.fetch_s_per_gb


def predicted(constants: Constants, size_gb: float) -> tuple[float, ...]:
    """First tokens in seconds, in the order of paper.SYSTEMS, each start alone on its links."""
    stages = 1 if size_gb < paper.ONE_STAGE_BELOW_GB else 4

    def start(style: Style, gb_fetched: float) -> float:
        times = constants.times
        fetched = fetch_at_ms(style, times) + round(1000 * constants.fetch_s_per_gb * gb_fetched)
        return ready_ms(style, times, fetched, round(size_gb * GB)) / 1000

    return (
        start(Style.IN_SEQUENCE, size_gb),
        start(Style.LOAD_BESIDE, size_gb),
        start(Style.LOAD_BESIDE, 0.0),
        start(Style.OVERLAPPED, size_gb),
        start(Style.OVERLAPPED, size_gb / stages),
    )


def errors(constants: Constants, table: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Relative errors, signed, of each model's five figures."""
    return {
        model: [found / said - 1 for found, said in zip(predicted(constants, paper.SIZES_GB[model]), row, strict=True)]
        for model, row in table.items()
    }


def fit(table: Mapping[str, Sequence[float]]) -> Constants:
    """The constants with the least mean relative error (and a third of its root mean square, so that none is far off).

    Nelder-Mead from four fixed beginnings: the same table always gives the same constants.
    """

    def loss(values: Sequence[float]) -> float:
        if min(values) <= 0 or values[2] < NOMINAL_S_PER_GB:
            return 1e9
        off = [e for row in errors(Constants(*map(float, values)), table).values() for e in row]
        return mean(abs(e) for e in off) + sqrt(mean(e * e for e in off)) / 3

    options = {"maxiter": 4000, "xatol": 1e-4, "fatol": 1e-6}
    starts = [[plain, floor, 0.6, 0.4] for plain in (6.0, 10.0) for floor in (3.0, 6.0)]
    found = min((minimize(loss, at, method="Nelder-Mead", options=options) for at in starts), key=lambda one: one.fun)
    return Constants(*(round(float(value), 3) for value in found.x))


def wrong_orders(constants: Constants, table: Mapping[str, Sequence[float]]) -> list[tuple[str, str, str]]:
    """Model and two systems that the published figures put in one order and the prediction does not."""
    found = []
    for model, row in table.items():
        ours = predicted(constants, paper.SIZES_GB[model])
        for a, b in combinations(range(len(row)), 2):
            if row[a] != row[b] and (row[a] - row[b]) * (ours[a] - ours[b]) <= 0:
                found.append((model, paper.SYSTEMS[a], paper.SYSTEMS[b]))
    return found


@dataclass(frozen=True, slots=True)
class Quality:
    """How well the constants predict what they were fitted to, and what they were not (each pair left out in turn)."""

    mean_error: float
    left_out_error: float
    largest_error: float
    wrong_orders: list[tuple[str, str, str]]


def quality(constants: Mapping[str, Constants]) -> Quality:
    """Over the twelve pairs of model and GPU, five systems each."""
    own, left_out, wrong = [], [], []
    for kind, table in paper.TTFT_S.items():
        own += [abs(e) for row in errors(constants[kind], table).values() for e in row]
        wrong += wrong_orders(constants[kind], table)
        for model in table:
            others = fit({name: row for name, row in table.items() if name != model})
            left_out += [abs(e) for e in errors(others, {model: table[model]})[model]]
    return Quality(mean(own), mean(left_out), max(own), wrong)


def frozen() -> dict[str, Constants]:
    """The constants that are in use. They were fitted before anything else was run."""
    return {kind: Constants(**values) for kind, values in json.loads(FROZEN.read_text()).items()}


def main() -> int:
    """Fit anew and keep the result."""
    constants = {kind: fit(table) for kind, table in paper.TTFT_S.items()}
    FROZEN.write_text(json.dumps({kind: asdict(one) for kind, one in constants.items()}, indent=2) + "\n")
    found = quality(constants)
    print(FROZEN.read_text(), end="")
    print(f"mean error {found.mean_error:.1%}, left out {found.left_out_error:.1%}, largest {found.largest_error:.1%}")
    print(f"orders not kept: {found.wrong_orders or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
