"""The growth of planning and simulating: what is promised of it, and that an hour of any size can be had."""

from bench.simulate import report, scale


def test_an_hour_has_as_many_models_as_devices_and_answers_them():
    found = scale.hour(48, None)
    assert (found.devices, found.models) == (48, 48)
    assert found.requests == round(48 * 3600 * scale.RATE_PER_MODEL)
    assert 0 < found.cold_starts < found.requests
    assert found.seconds > 0


def test_percentiles_of_plans_in_milliseconds():
    assert scale.percentiles([0.001] * 98 + [0.002, 0.2]) == (1.0, 2.0)


def test_growth_is_judged_by_the_time_a_request_takes():
    small = scale.Hour(1_000, 1_000, requests=6_000, cold_starts=1, seconds=6.0)
    large = scale.Hour(10_000, 10_000, requests=60_000, cold_starts=1, seconds=120.0)
    judged = {one.name: one for one in report.scale_targets((8.0, 60.0), [small, large])}
    assert judged["plan() on 10,000 devices, median"].met
    assert not judged["plan() on 10,000 devices, 99 %"].met
    assert judged["an hour of 10,000 devices and models"].value == 2.0
    assert judged["time a request, 10,000 devices / 1,000"].value == 2.0
    assert not any(one.met for one in report.scale_targets((8.0, 9.0), [])[2:]), "what was not simulated is not met"
