"""The constants of the simulation: what they predict of the paper's cold starts, and that they are what a fit finds."""

import pytest

from bench.simulate import paper, report
from bench.simulate.cells import Cell, Outcome
from bench.simulate.fit import Constants, errors, fit, frozen, predicted, quality, wrong_orders


@pytest.fixture(scope="module")
def constants():
    return frozen()


def test_the_frozen_constants_are_what_the_cold_starts_alone_give(constants):
    for kind, table in paper.TTFT_S.items():
        again = fit(table)
        for name in ("plain_s", "floor_s", "fetch_s_per_gb", "load_s_per_gb"):
            assert getattr(again, name) == pytest.approx(getattr(constants[kind], name), rel=0.02)


def test_a_fetch_is_never_faster_than_its_link(constants):
    assert all(0.5 < one.link_efficiency <= 1 for one in constants.values())


def test_they_predict_the_published_cold_starts_and_those_that_they_have_not_seen(constants):
    found = quality(constants)
    assert found.mean_error <= 0.15
    assert found.left_out_error <= 0.20
    assert found.wrong_orders == []


def test_an_order_that_is_not_kept_is_found():
    slow_links = Constants(plain_s=1, floor_s=1, fetch_s_per_gb=10, load_s_per_gb=0.1)
    table = {"Llama2-7B": paper.TTFT_S["V100"]["Llama2-7B"]}
    assert ("Llama2-7B", "serverlessllm cached", "hydraserve s=1") in wrong_orders(slow_links, table)


def test_the_five_systems_of_one_model_by_hand():
    own = Constants(plain_s=10, floor_s=6, fetch_s_per_gb=0.6, load_s_per_gb=0.5)
    assert predicted(own, 20) == pytest.approx((32, 22, 12.911, 14, 8), abs=0.001)
    assert predicted(own, 5) == pytest.approx((15.5, 13, 10.727, 8, 8), abs=0.001), "too small to be split"
    assert errors(own, {"OPT-2.7B": (15.9, 1, 1, 1, 1)})["OPT-2.7B"][0] == pytest.approx(15.83 / 15.9 - 1)


# --- what is made of outcomes -----------------------------------------------------------------------------------------


def outcomes(by_system: dict[str, float]) -> list[Outcome]:
    """Every cell alike, two seeds one point apart on either side of the figure."""
    return [
        Outcome(system, Cell(rate, cv, seed), value + off, {}, 100.0, 1, 1, 1)
        for system, value in by_system.items()
        for cv in paper.CVS
        for rate in paper.RATES
        for seed, off in ((1, 1.0), (2, -1.0))
    ]


def test_targets_are_computed_from_the_means_of_the_seeds(constants):
    figures = {"serverless-vllm": 45, "serverlessllm": 50, "hydraserve": 78, "hydraserve cache": 80, "hydrant": 88}
    found = outcomes(figures)
    judged = {target.name: target for target in report.targets(quality(constants), found, 12.0)}
    assert all(target.met for target in judged.values())
    assert judged["hydrant against hydraserve with cache, mean"].value == pytest.approx(8)
    assert judged["cells where serverless-vllm < serverlessllm < hydraserve"].value == 9


def test_what_was_not_run_is_not_met(constants):
    judged = {target.name: target for target in report.targets(quality(constants), outcomes({"hydrant": 99}), None)}
    assert not judged["hydrant against hydraserve with cache, mean"].met
    assert not judged["cells where hydrant is ahead of hydraserve with cache"].met
    assert not judged["an hour of 384 models on one core, slowest run"].met
