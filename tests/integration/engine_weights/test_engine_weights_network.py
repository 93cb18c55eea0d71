"""A store behind a bad network: connections reset, a crawling line, silence, short bodies, bits that flip."""

import random

import pytest
from support.weights_source import read_back, until, write_model

from engine.weights.source import RetryPolicy
from engine.weights.stage import WeightsUnavailable

IMPATIENT = RetryPolicy(tries=100, first_pause_s=0.01, longest_pause_s=0.05, idle_timeout_s=0.2, silence_s=0.5)


def bytes_of(model):
    return {tensor["name"]: model.data(tensor["name"]) for tensor in model.tensors}


@pytest.mark.parametrize("seed", range(4))
async def test_connections_reset_at_random_cost_no_byte_twice(model, server, make_store, seed):
    server.resets = random.Random(seed)
    # Of random bodies, some are reset before their first byte; a few of those in a row are no reason to give up.
    store = await make_store(link_bps=8_000_000, retry=RetryPolicy(first_pause_s=0.01, longest_pause_s=0.05))
    stage = store.prefetch(model.request("s1", source=server.url))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == bytes_of(model)
    assert server.resets_made >= 3
    assert stage.bytes_total <= server.weight_bytes() <= 1.02 * stage.bytes_total


async def test_a_crawling_store_is_slow_and_not_silent(tmp_path, make_store, server):
    """1 Mbit/s, shared by several reads: bytes come to each, though none is done before the idle limit."""
    model = write_model(tmp_path / "model", [66_000] * 4)
    server.rate_bps = 125_000
    store = await make_store(link_bps=1_000_000, retry=RetryPolicy(tries=2, idle_timeout_s=1.0, silence_s=1.0))
    stage = store.prefetch(model.request("s1", source=server.url))
    await stage.wait_verified()
    assert max(end - begin for _, begin, end in server.requests) > 60_000
    assert read_back(stage.load_spec) == bytes_of(model)
    assert server.weight_bytes() == stage.bytes_total


@pytest.mark.parametrize("when", ["at once", "in a body"])
async def test_a_store_that_falls_silent_is_given_up_in_bounded_time(model, server, make_store, when):
    server.silent = when == "at once"
    server.hold_after = {} if server.silent else {tensor["file"]: 0 for tensor in model.tensors}
    store = await make_store(retry=IMPATIENT)
    stage = store.prefetch(model.request("s1", source=server.url))
    with pytest.raises(WeightsUnavailable, match=r"no byte came for .* Check the source"):
        await stage.wait_verified()
    store.release("s1")
    await until(lambda: not stage.tasks)
    store.evict(None)
    assert store.bytes_held() == 0


async def test_short_bodies_are_asked_for_on(model, server, store):
    server.shorten = 200_000
    stage = store.prefetch(model.request("s1", source=server.url))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == bytes_of(model)
    assert server.weight_bytes() == stage.bytes_total


@pytest.mark.parametrize(("size", "in_range"), [(0, False), (50_000, True)], ids=["no byte", "another range"])
async def test_bodies_of_which_nothing_can_be_used_are_no_progress(model, server, store, size, in_range):
    server.shorten, server.shorten_range = size, in_range
    stage = store.prefetch(model.request("s1", source=server.url))
    with pytest.raises(WeightsUnavailable, match="times in a row"):
        await stage.wait_verified()


async def test_a_flipped_bit_fails_this_fetch_and_costs_the_next_one_tensor(model, server, store):
    tensor = model.tensors[8]
    server.flips = {(tensor["file"], tensor["begin"] + 12_345)}
    first = store.prefetch(model.request("s1", source=server.url))
    with pytest.raises(WeightsUnavailable, match=r"tensor t008: .*SHA-256 differs"):
        await first.wait_verified()
    assert tensor["sha256"] not in store.held_digests()
    landed = set(store.held_digests())
    store.release("s1")
    second = store.prefetch(model.request("s2", source=server.url))
    await second.wait_verified()
    assert read_back(second.load_spec) == bytes_of(model)
    missing = [t for t in model.tensors if t["sha256"] not in landed]
    assert second.bytes_to_fetch == sum(t["end"] - t["begin"] for t in missing)
