"""The exact solver beside which the planner is put, in cases that can be seen through."""

import pytest

from bench.simulate.exact import GB, compare, least, model, ours, ways
from orchestrator.types import DeviceState, NodeState


def node(name: str, link_gb: int, *free_gb: int) -> NodeState:
    devices = tuple(DeviceState(name, i, "gpu", free * GB, free * GB) for i, free in enumerate(free_gb))
    return NodeState(name, link_gb * GB, devices)


FAST, SLOW = node("fast", 4, 30), node("slow", 1, 30)
SMALL, LARGE = model("small", 4, 8_000), model("large", 16, 8_000)
"""Within 6 s, the slow link brings 6 GB: all of the small model, not all of the large one."""


def test_a_model_alone_is_placed_as_ours_does():
    (places,) = ours([FAST, SLOW], [LARGE]).values()
    assert [(place.node, place.reserved) for place in places] == [("fast", 20 * GB)]
    assert least([FAST, SLOW], [LARGE]) == 20 * GB


def test_ways_are_all_that_fit_and_are_in_time():
    found = {tuple(place.node for place in places) for places in ways(LARGE, [FAST, SLOW])}
    assert found == {("fast",)}, "half of it is 8 GB, too much for the slow link"
    assert len(list(ways(SMALL, [FAST, SLOW]))) == 4


def test_the_first_one_leaves_to_the_second_what_that_one_needs():
    nodes, models = [node("fast", 4, 20), SLOW], [SMALL, model("large", 12, 8_000)]
    started = ours(nodes, models)
    assert [place.node for place in started["small"]] == ["slow"]
    assert [place.node for place in started["large"]] == ["fast"]
    assert sum(place.reserved for places in started.values() for place in places) == least(nodes, models) == 24 * GB


def test_what_cannot_be_placed_is_said():
    with pytest.raises(ValueError, match="cannot place"):
        least([node("fast", 4, 20)], [SMALL, LARGE])


def test_ours_is_never_below_the_least():
    found = compare(seed=1, cases=40)
    assert found.cases > 20
    assert 1.0 <= found.median <= found.largest
