"""Medians, bounds and targets of the cold-start benchmark, from samples that are written down here."""

from pathlib import Path

import pytest

from bench import targets
from bench.coldstart import plot, summary, table
from bench.coldstart.sample import Sample

LINK_BPS = 50_000_000


def a_sample(row: str, ttft_s: float, number: int = 1, model: str = "smollm2", **changes: object) -> Sample:
    """A cold start of a model of 500 MB over two links."""
    values = {
        "row": row,
        "model": model,
        "round": number,
        "ttft_s": ttft_s,
        "text": "Paris",
        "stages": {"rank 0 on node-1": {"prefetch_start": 0.1, "fork": 0.1, "runtime": 0.2, "prefetch_end": 5.0}},
        "link": {"node-1": 260_000_000, "node-2": 240_000_000},
        "cpu_s": 10.0,
        "peak_bytes": 10**9,
        "largest_stage_bytes": 250_000_000,
        "stage_count": 2,
        "engine_s": ttft_s - 0.1,
    }
    return Sample(**(values | changes))  # type: ignore[arg-type]


FLOORS = {("smollm2", 1): [2.0, 9.0, 1.0], ("smollm2", 2): [3.0]}


def test_a_row_is_its_median_with_its_spread_beside_the_naive_way() -> None:
    rounds = [a_sample("hydrant", ttft_s, number) for number, ttft_s in enumerate((6.0, 5.5, 9.0), 1)]
    naive, hydrant = summary.summarize([a_sample("naive", 22.0), *rounds], FLOORS, LINK_BPS)
    assert (hydrant.ttft_s, hydrant.ttft_min_s, hydrant.ttft_max_s, hydrant.rounds) == (6.0, 5.5, 9.0, 3)
    assert hydrant.speedup == 22.0 / 6.0
    assert naive.speedup == 1.0
    assert hydrant.link_bytes == 260_000_000


def test_the_bound_is_the_slower_of_bytes_and_floor() -> None:
    (bytes_bound,) = summary.summarize([a_sample("hydrant", 6.0)], FLOORS, LINK_BPS)
    assert bytes_bound.bound_s == 250_000_000 / LINK_BPS
    assert bytes_bound.over_bound == 6.0 / 5.0
    (floor_bound,) = summary.summarize([a_sample("hydrant", 6.0, largest_stage_bytes=1000)], FLOORS, LINK_BPS)
    assert floor_bound.bound_s == 3.0


def test_what_is_in_memory_has_only_its_floor_for_a_bound() -> None:
    (row,) = summary.summarize([a_sample("memory", 2.5, stage_count=1)], FLOORS, LINK_BPS)
    assert row.bound_s == 2.0, "the median floor of one stage"


def test_without_a_floor_there_is_no_bound() -> None:
    (row,) = summary.summarize([a_sample("hydrant", 6.0, stage_count=4)], FLOORS, LINK_BPS)
    assert (row.bound_s, row.over_bound) == (None, None)


def test_what_was_not_measured_is_not_met() -> None:
    found = {target.name: target for target in summary.targets([], [], {}, None)}
    assert not any(target.met for target in found.values())
    assert all(target.value is None for target in found.values())


@pytest.mark.parametrize(("ttft_s", "met"), [(4.0, True), (5.0, False)])
def test_a_target_is_met_by_what_was_measured(ttft_s: float, met: bool) -> None:
    samples = [a_sample("naive", 22.0), a_sample("hydrant", ttft_s)]
    rows = summary.summarize(samples, FLOORS, LINK_BPS)
    found = {target.name: target for target in summary.targets(rows, samples, FLOORS, None)}
    target = found["Hydrant vs naive, SmolLM2"]
    assert (target.value, target.met) == (22.0 / ttft_s, met)


def test_a_consolidation_that_moves_bytes_twice_misses_its_target() -> None:
    once = a_sample("hydrant", 5.0, detail={"consolidation": {"received_bytes": 501, "model_bytes": 500}})
    twice = a_sample("hydrant", 5.0, detail={"consolidation": {"received_bytes": 750, "model_bytes": 500}})
    name = "received by the consolidated node / the model's bytes"
    (good,) = [t for t in summary.targets([], [once], {}, None) if t.name == name]
    (bad,) = [t for t in summary.targets([], [once, twice], {}, None) if t.name == name]
    assert (good.met, bad.met, bad.value) == (True, False, 1.5)


def test_the_results_are_told_and_drawn(tmp_path: Path) -> None:
    samples = [a_sample("naive", 22.0), a_sample("hydrant", 5.0), a_sample("naive", 50.0, model="llama-1.4gb")]
    rows = summary.summarize(samples, FLOORS, LINK_BPS)
    lines = table.results(rows)
    assert "naive: fetch all, then launch_server" in lines[1]
    assert "4.40x" in lines[2]
    judged = "\n".join(targets.lines(summary.targets(rows, samples, FLOORS, None)))
    assert "MISSED" in judged
    assert "not measured" in judged
    assert "2.00" in table.floors(FLOORS)[1]
    assert table.parts(samples[0].stages)[0].endswith("prefetch_end 5.00")
    picture = tmp_path / "picture.png"
    plot.draw(rows, samples, picture, "title")
    assert picture.read_bytes().startswith(b"\x89PNG")
