"""A compressed tensor is decoded as it comes, in whatever pieces, and nothing that is none gets through."""

import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.weights.compressed import CodecError, Decoder
from registry.compressed_format import CHUNK_BYTES, encoded


def half_floats(count: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    return b"".join(struct.pack("<e", rng.gauss(0, 0.02)) for _ in range(count))


DATA = half_floats(50_000)
PACKED = encoded(DATA, "F16")
LONG = half_floats(5000) * (5 * CHUNK_BYTES // 10_000)
LONG_PACKED = encoded(LONG, "F16")


class Place:
    """Where a tensor is written to; `room`: how many writes succeed before there is no space."""

    def __init__(self, size: int, room: int | None = None) -> None:
        self.data = bytearray(size)
        self.room = room

    def write(self, data: memoryview, offset: int) -> None:
        if self.room is not None:
            if not self.room:
                raise OSError("no space")
            self.room -= 1
        assert offset + data.nbytes <= len(self.data)
        self.data[offset : offset + data.nbytes] = data


def pieces_of(packed: bytes, cuts: list[int]) -> list[tuple[int, memoryview]]:
    bounds = sorted({0, len(packed), *(cut % len(packed) for cut in cuts)})
    return [(low, memoryview(packed)[low:high]) for low, high in pairwise(bounds)]


def test_weights_become_smaller():
    assert len(PACKED) < 0.95 * len(DATA)


@given(st.lists(st.integers(0, 2**30), max_size=30), st.randoms(use_true_random=False))
def test_pieces_in_any_order_give_the_tensor(cuts, rng):
    pieces, place = pieces_of(LONG_PACKED, cuts), Place(len(LONG))
    rng.shuffle(pieces)
    decoder = Decoder(len(LONG), len(LONG_PACKED))
    for at, data in pieces:
        decoder.take(at, data, place.write)
        assert place.data[: decoder.decoded] == LONG[: decoder.decoded]
    assert decoder.decoded == len(LONG)


def test_what_has_come_is_decoded_at_once():
    place, decoder = Place(len(LONG)), Decoder(len(LONG), len(LONG_PACKED))
    decoder.take(0, memoryview(LONG_PACKED)[: len(LONG_PACKED) // 2], place.write)
    assert decoder.decoded >= 2 * CHUNK_BYTES


@pytest.mark.parametrize("room", range(5))
def test_a_full_memory_costs_nothing_but_time(room):
    place, decoder = Place(len(LONG), room), Decoder(len(LONG), len(LONG_PACKED))
    with pytest.raises(OSError, match="no space"):
        decoder.take(0, memoryview(LONG_PACKED), place.write)
    assert decoder.decoded == room * CHUNK_BYTES
    place.room = None
    decoder.take(0, memoryview(LONG_PACKED), place.write)
    assert place.data == LONG


@given(st.integers(0, len(PACKED) - 1), st.binary(min_size=1, max_size=20))
def test_altered_bytes_are_refused_or_stay_within_the_tensor(at, change):
    altered = (PACKED[:at] + change + PACKED[at + len(change) :])[: len(PACKED)]
    place, decoder = Place(len(DATA)), Decoder(len(DATA), len(PACKED))
    try:
        decoder.take(0, memoryview(altered), place.write)
    except CodecError:
        return
    assert decoder.decoded == len(DATA)  # and the digest has the last word


@given(st.binary(max_size=200), st.integers(1, 10**6))
def test_noise_is_refused(noise, size):
    place, decoder = Place(size), Decoder(size, len(noise))
    with pytest.raises(CodecError):
        decoder.take(0, memoryview(noise), place.write)


@pytest.mark.parametrize("size", [len(DATA) - 2, len(DATA) + 2, 2, 10**9])
def test_another_size_than_promised_is_refused(size):
    with pytest.raises(CodecError):
        Decoder(size, len(PACKED)).take(0, memoryview(PACKED), Place(size).write)


@pytest.mark.parametrize("size", [0, 15, 16])
def test_a_chunk_that_takes_no_bytes_does_not_go_on_for_ever(size):
    head = struct.pack("<4xIII", 100, 100, size)
    with pytest.raises(CodecError):
        Decoder(100, 32).take(0, memoryview(head + bytes(16)), Place(100).write)


def test_a_chunk_that_would_take_gigabytes_is_refused():
    head = struct.pack("<4xIII", 2**31, 100, 40)
    with pytest.raises(CodecError):
        Decoder(2**32, 10**6).take(0, memoryview(head), Place(100).write)
