"""How much of a read is held back until it is whole."""

from engine.weights.source import CHUNK_S, TRUSTED_READS, _Chunk


def read_whole(chunk: _Chunk, times: int, size: int = 2_500_000, seconds: float = 0.5) -> None:
    for _ in range(times):
        chunk.came_whole(size, seconds)


def test_a_trusted_source_is_read_by_the_tenth_of_a_second() -> None:
    chunk = _Chunk()
    read_whole(chunk, TRUSTED_READS - 1)
    assert chunk.nbytes == 1, "a source that has just been met is trusted with nothing"
    read_whole(chunk, 1)
    assert chunk.nbytes == int(5_000_000 * CHUNK_S)


def test_a_fast_source_is_bounded_and_a_crawling_one_holds_nothing_back() -> None:
    chunk = _Chunk()
    read_whole(chunk, TRUSTED_READS, seconds=0.0)
    assert chunk.nbytes == 1024 * 1024
    read_whole(chunk, 1, size=1, seconds=60.0)
    assert chunk.nbytes == 1


def test_after_a_broken_read_trust_begins_anew() -> None:
    chunk = _Chunk()
    read_whole(chunk, TRUSTED_READS)
    chunk.broke()
    assert chunk.nbytes == 1
    read_whole(chunk, TRUSTED_READS - 1)
    assert chunk.nbytes == 1
