"""Lengths of prompts and answers: drawn from the Azure 2023 traces where they lie, else from their quantiles."""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

from orchestrator.simulator.workload import Lengths, empirical, quantiles

FILES = {"chatbot": "azure_conv.csv", "code": "azure_code.csv", "summarization": "azure_conv.csv"}
"""Which trace stands in for which application's data set; the traces are github.com/Azure/AzurePublicDataset's."""
# fmt: off
QUANTILES = {
    "azure_conv.csv": (
        (
            2,
            181,
            207,
            372,
            387,
            396,
            403,
            414,
            703,
            984,
            1020,
            1045,
            1071,
            1097,
            1130,
            1189,
            1315,
            1876,
            2734,
            4083,
            14050,
        ),
        (7, 41, 54, 67, 77, 85, 91, 96, 103, 113, 129, 151, 177, 217, 384, 395, 400, 411, 424, 451, 1000),
    ),
    "azure_code.csv": (
        (
            3,
            75,
            147,
            232,
            385,
            578,
            770,
            938,
            1075,
            1261,
            1469,
            1690,
            1909,
            2163,
            2433,
            2744,
            3192,
            3919,
            5186,
            7302,
            7437,
        ),
        (6, 6, 7, 7, 8, 9, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 29, 39, 55, 90, 1899),
    ),
}
# fmt: on
"""Prompt and answer tokens at 0, 5, ... 100 percent: `python -m bench.simulate.lengths DIRECTORY` prints them."""
STEPS = 20


def lengths(folder: Path | None, most: int) -> Mapping[str, Lengths]:
    """By application; each length is cut at `most` tokens. None, or a folder without the traces: from quantiles."""
    found = {}
    for app, name in FILES.items():
        if folder is not None and (folder / name).is_file():
            found[app] = empirical(read(folder / name), most)
        else:
            found[app] = quantiles(*QUANTILES[name], most)
    return found


def read(path: Path) -> list[tuple[int, int]]:
    """Prompt and answer tokens of every request of a trace."""
    with path.open(newline="") as file:
        return [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]


def quantiles_of(values: list[int]) -> tuple[int, ...]:
    """At 0, 5, ... 100 percent."""
    ordered = sorted(values)
    return tuple(ordered[(len(ordered) - 1) * step // STEPS] for step in range(STEPS + 1))


if __name__ == "__main__":
    for name in sorted(set(FILES.values())):
        pairs = read(Path(sys.argv[1]) / name)
        print(name, quantiles_of([p for p, _ in pairs]), quantiles_of([o for _, o in pairs]))
