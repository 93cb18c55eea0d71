"""The simulator beside reality: a run that bench/recorded/record.py has recorded on real SGLang, replayed."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pytest

from bench.recorded.replay import Compared, Recording

RECORDING = Path(__file__).resolve().parents[3] / "bench/results/recorded-run.json"
MEDIAN_ERROR = 0.25


@pytest.fixture(scope="module")
def compared() -> Sequence[Compared]:
    """Every start of the run."""
    return Recording.load(RECORDING).replay()


def test_thirty_real_cold_starts_are_simulated_as_they_were(compared: Sequence[Compared]) -> None:
    assert len(compared) >= 30
    assert {one.stages for one in compared} >= {1, 3, 4}, "single workers and pipelines"
    assert median(one.error for one in compared) <= MEDIAN_ERROR


def test_the_controller_predicted_them_as_well_when_it_planned_them(compared: Sequence[Compared]) -> None:
    assert median(one.planned_error for one in compared) <= MEDIAN_ERROR


def test_what_starts_taught_made_the_predictions_better(compared: Sequence[Compared]) -> None:
    """The first three are predicted by nothing but defaults."""
    untaught, taught = compared[:3], compared[3:]
    assert median(one.planned_error for one in taught) < median(one.planned_error for one in untaught)
