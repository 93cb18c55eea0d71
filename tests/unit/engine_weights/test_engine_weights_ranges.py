from hypothesis import given
from hypothesis import strategies as st

from engine.weights.ranges import Wanted, coalesce, overlap


@st.composite
def items(draw):
    """Disjoint byte ranges in a few files, touching or with gaps, in any order."""
    wanted = []
    for file in draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True, min_size=1)):
        at = 0
        for gap, size in draw(st.lists(st.tuples(st.sampled_from([0, 0, 1, 7]), st.integers(0, 50)), max_size=12)):
            at += gap
            wanted.append((file, at, at + size))
            at += size
    order = draw(st.permutations(wanted))
    return [Wanted(i, *place) for i, place in enumerate(order)]


@given(items(), st.integers(1, 200))
def test_every_wanted_byte_is_read_exactly_once_and_no_other(wanted, window):
    ranges = coalesce(wanted, window)
    assert sum(run.end - run.begin for run in ranges) == sum(item.end - item.begin for item in wanted)
    placed = {}
    for run in ranges:
        at = run.begin
        for part in run.parts:
            assert (part.file, part.begin) == (run.file, at)
            at = part.end
            placed[part.item] = part
        assert at == run.end
    assert placed == {item.item: item for item in wanted if item.end > item.begin}


@given(items(), st.integers(1, 200))
def test_nothing_is_read_earlier_than_its_window(wanted, window):
    ahead = 0
    turn = {}
    for item in wanted:
        turn[item.item] = ahead
        ahead += item.end - item.begin
    largest = max((item.end - item.begin for item in wanted), default=0)
    read = 0
    for run in coalesce(wanted, window):
        for part in run.parts:
            assert turn[part.item] - read <= window + largest
            read += part.end - part.begin


def test_neighbours_become_one_read_whatever_their_order():
    wanted = [Wanted(0, "f", 20, 30), Wanted(1, "f", 10, 20), Wanted(2, "f", 40, 50), Wanted(3, "f", 0, 10)]
    ranges = coalesce(wanted)
    assert [(run.begin, run.end) for run in ranges] == [(0, 30), (40, 50)]


def test_a_range_is_split_among_its_items():
    (run,) = coalesce([Wanted(0, "f", 0, 10), Wanted(1, "f", 10, 12), Wanted(2, "f", 12, 30)])
    assert list(overlap(run.parts, 8, 15)) == [(0, 8, 10), (1, 0, 2), (2, 0, 3)]
