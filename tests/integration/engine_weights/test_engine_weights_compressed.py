"""A model that lies compressed at its source: fewer bytes cross the link, and the same bytes land."""

import random

import pytest
from support.range_server import RangeServer
from support.small_filesystem import small_filesystem
from support.weights_source import compressed, read_back, until, write_model

from engine.weights.source import RetryPolicy
from engine.weights.stage import WeightsUnavailable
from engine.weights.store import WeightStore

SIZES = [3_000_000, 1, 170_000, 0, 400_001, 65_536, 2_500_000, 4096]


@pytest.fixture
def model(tmp_path):
    """Of each byte of it, three bits are random."""
    return write_model(tmp_path / "model", SIZES, bits=3)


@pytest.fixture
def packed(model, tmp_path):
    return compressed(model, tmp_path / "packed")


@pytest.fixture
def server(packed):
    serving = RangeServer(packed.folder)
    yield serving
    serving.close()


def bytes_of(model):
    return {tensor["name"]: model.data(tensor["name"]) for tensor in model.tensors}


def packed_bytes(model, names=None):
    return sum(t["end"] - t["begin"] for t in model.tensors if names is None or t["name"] in names)


@pytest.mark.parametrize("scheme", ["file", "http"])
async def test_the_same_bytes_land_and_fewer_are_read(model, packed, server, store, scheme):
    source = {"file": packed.folder.as_uri(), "http": server.url}[scheme]
    stage = store.prefetch(packed.request("s1", source=source))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == bytes_of(model)
    assert stage.bytes_fetched == stage.bytes_to_fetch == stage.bytes_total == packed_bytes(packed)
    assert stage.bytes_total < 0.5 * sum(SIZES)
    if scheme == "http":
        assert server.weight_bytes() == packed_bytes(packed)


async def test_a_plain_and_a_compressed_copy_share_what_is_held(model, packed, server, store):
    await store.prefetch(model.request("plain", ["t000", "t002"])).wait_verified()
    stage = store.prefetch(packed.request("s1", source=server.url))
    await stage.wait_verified()
    assert (
        stage.bytes_to_fetch == server.weight_bytes() == packed_bytes(packed) - packed_bytes(packed, ["t000", "t002"])
    )
    assert read_back(stage.load_spec) == bytes_of(model)


@pytest.mark.parametrize("seed", range(3))
async def test_connections_reset_at_random_cost_no_byte_twice(model, packed, server, make_store, seed):
    server.resets = random.Random(seed)
    # Which body meets which draw is the threads' doing; half of them are reset, so four in a row are not rare enough.
    store = await make_store(link_bps=8_000_000, retry=RetryPolicy(tries=12, first_pause_s=0.01, longest_pause_s=0.05))
    stage = store.prefetch(packed.request("s1", source=server.url))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == bytes_of(model)
    assert server.weight_bytes() <= 1.02 * stage.bytes_total


@pytest.mark.parametrize("at", [0, 5, 13, 16, 40, 5000, -1])
async def test_an_altered_byte_fails_the_stage_and_names_the_tensor(packed, store, at):
    tensor = packed.tensors[0]
    path = packed.folder / tensor["file"]
    data = bytearray(path.read_bytes())
    data[tensor["begin"] + at if at >= 0 else at] ^= 0x55
    path.write_bytes(data)
    stage = store.prefetch(packed.request("s1"))
    with pytest.raises(WeightsUnavailable, match=r"tensor t000: .*are not the ones that were registered"):
        await stage.wait_verified()
    assert tensor["sha256"] not in store.held_digests()
    store.release("s1")
    await until(lambda: not stage.tasks)
    store.evict(None)
    assert store.bytes_held() == 0


async def test_a_file_system_that_is_full_in_mid_fetch_goes_on_when_there_is_room(tmp_path):
    """What is used makes no room, what is not does, also for a tensor that is half decoded."""
    with small_filesystem(tmp_path / "small", 3_000_000) as folder:
        store = WeightStore(folder / "store", 10**9)
        await store.start()
        try:
            old = write_model(tmp_path / "old", [1_500_000])
            await store.prefetch(old.request("old")).wait_verified()
            store.release("old")
            new = write_model(tmp_path / "new", [2_000_000, 500_000], seed=2, bits=3)
            stage = store.prefetch(compressed(new, tmp_path / "packed").request("new"))
            await stage.wait_verified()
            assert read_back(stage.load_spec) == bytes_of(new)
        finally:
            await store.close()


async def test_it_is_paced_by_what_crosses_the_link(packed, make_store):
    store = await make_store(link_bps=packed_bytes(packed))
    stage = store.prefetch(packed.request("s1"))
    await stage.wait_verified()
    took_ms = stage.marks["prefetch_end"] - stage.marks["prefetch_start"]
    assert took_ms >= 700  # at the rate of its own bytes it would be 400
