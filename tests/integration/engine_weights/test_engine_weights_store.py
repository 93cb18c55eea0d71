"""What a node fetches, shares, keeps and gives back."""

import asyncio
import json
import struct

import pytest
from support.weights_source import read_back, until, write_model

from engine.weights.pacing import BURST_S
from engine.weights.progress import Progress
from engine.weights.spec import Prefetch, SpecError
from engine.weights.stage import WeightsUnavailable
from engine.weights.store import StoreError

FIRST, SECOND = [f"t{i:03d}" for i in range(6)], [f"t{i:03d}" for i in range(6, 12)]

LAST_FILE = "model-00002.safetensors"


def size_of(model, names=None):
    return sum(t["end"] - t["begin"] for t in model.tensors if names is None or t["name"] in names)


def segments(shm):
    return sorted((shm / "store" / "segments").glob("*.safetensors"))


async def test_a_stage_gets_its_tensors_and_nothing_else_is_read(model, server, store):
    stage = store.prefetch(model.request("s1", FIRST, source=server.url))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == {name: model.data(name) for name in FIRST}
    assert server.weight_bytes() == size_of(model, FIRST) == stage.bytes_fetched == stage.bytes_total
    assert stage.marks["prefetch_start"] <= stage.marks["first_byte"] <= stage.marks["prefetch_end"]
    assert store.held_digests() == sorted(t["sha256"] for t in model.tensors[:6])


async def test_a_segment_is_a_safetensors_file_in_load_order(model, store, shm):
    await store.prefetch(model.request("s1")).wait_verified()
    (path,) = segments(shm)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    assert list(header) == [t["name"] for t in model.tensors]
    at = 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert begin == at
        assert data[8 + length + begin : 8 + length + end] == model.data(name)
        at = end
    assert 8 + length + at == len(data)


async def test_two_stages_that_start_together_share_what_both_want(model, server, store):
    left = store.prefetch(model.request("s1", FIRST + SECOND[:2], source=server.url))
    right = store.prefetch(model.request("s2", FIRST[3:] + SECOND, source=server.url))
    await asyncio.gather(left.wait_verified(), right.wait_verified())
    assert server.weight_bytes() == size_of(model)
    assert right.bytes_to_fetch == size_of(model, SECOND[2:])
    assert read_back(right.load_spec) == {name: model.data(name) for name in FIRST[3:] + SECOND}


async def test_consolidation_fetches_exactly_what_is_missing(model, server, store):
    stage = store.prefetch(model.request("s1", FIRST, source=server.url))
    await stage.wait_verified()
    whole = store.prefetch(model.request("s2", source=server.url))
    await whole.wait_verified()
    assert whole.bytes_to_fetch == whole.bytes_fetched == size_of(model, SECOND)
    assert server.weight_bytes() == size_of(model)
    assert read_back(whole.load_spec) == {t["name"]: model.data(t["name"]) for t in model.tensors}


async def test_what_is_held_is_not_fetched_again(model, server, store):
    await store.prefetch(model.request("s1", source=server.url)).wait_verified()
    store.release("s1")
    sent = dict(server.sent)
    again = store.prefetch(model.request("s2", source=server.url))
    await again.wait_verified()
    assert server.sent == sent
    assert again.bytes_to_fetch == 0
    assert "first_byte" not in again.marks


async def test_an_alias_is_stored_once_under_its_source(model, store, shm):
    alias = model.tensors[0] | {"name": "lm_head.weight", "source_name": "t000"}
    effect = model.effect("s1", ["t005"])
    effect["tensors"] += [alias, model.tensors[0]]
    stage = store.prefetch(Prefetch.from_json(effect))
    await stage.wait_verified()
    assert stage.bytes_fetched == size_of(model, ["t000", "t005"])
    read = read_back(stage.load_spec)
    assert list(read) == ["t005", "lm_head.weight", "t000"]
    assert read["lm_head.weight"] == read["t000"] == model.data("t000")


async def test_the_same_prefetch_again_changes_nothing(model, server, store):
    stage = store.prefetch(model.request("s1", source=server.url))
    assert store.prefetch(model.request("s1", source=server.url, version=2)) is stage
    await stage.wait_verified()
    assert store.prefetch(model.request("s1", source=server.url)) is stage is store.get("s1")
    assert server.weight_bytes() == size_of(model)
    with pytest.raises(SpecError, match="other tensors"):
        store.prefetch(model.request("s1", FIRST))


async def test_files_come_first_and_config_is_overridden(model, server, store):
    server.hold_after = {LAST_FILE: 0}
    stage = store.prefetch(model.request("s1", source=server.url, config_overrides={"tie": False, "extra": [1]}))
    await stage.wait_files()
    assert not stage.verified
    assert json.loads((stage.model_dir / "config.json").read_text()) == {"layers": 2, "tie": False, "extra": [1]}
    assert (stage.model_dir / "tokenizer.json").read_text() == '{"vocab": {}}'
    assert sorted(path.name for path in stage.model_dir.iterdir()) == ["config.json", "tokenizer.json"]
    server.released.set()
    await stage.wait_verified()
    plain = store.prefetch(model.request("s2", source=server.url))
    await plain.wait_verified()
    assert json.loads((plain.model_dir / "config.json").read_text()) == {"layers": 2, "tie": True}
    assert server.sent["config.json"] == model.files[0]["size"]


async def test_changes_are_pushed(model, store):
    stage = store.prefetch(model.request("s1"))
    seen = []
    stage.on_change.append(
        lambda changed: seen.append((changed.files_ready, "first_byte" in changed.marks, changed.verified))
    )
    await stage.wait_verified()
    assert seen[0] == (False, True, False), "the first byte is a small file's: they come first"
    assert (True, True, False) in seen
    assert seen[-1] == (True, True, True)


async def test_release_keeps_the_bytes_and_evict_gives_them_back(model, store, shm):
    stage = store.prefetch(model.request("s1"))
    await stage.wait_verified()
    store.evict(None)
    assert len(store.held_digests()) == 12
    store.release("s1")
    assert store.get("s1") is None
    assert len(store.held_digests()) == 12
    assert not stage.load_spec.exists()
    store.evict([])
    assert segments(shm)
    store.evict(["0" * 64])
    assert segments(shm)
    store.evict([model.tensors[3]["sha256"]])
    assert store.held_digests() == []
    assert not segments(shm)
    store.evict(None)
    assert store.bytes_held() == 0


async def test_the_least_recently_used_goes_first_and_never_what_is_used(tmp_path, make_store):
    models = [write_model(tmp_path / str(i), [400_000], seed=i) for i in range(4)]
    store = await make_store(limit_bytes=1_300_000)
    for i in range(3):
        await store.prefetch(models[i].request(f"s{i}")).wait_verified()
    for i in (1, 2):
        store.release(f"s{i}")
        await asyncio.sleep(0.01)
    await store.prefetch(models[1].request("s1_again")).wait_verified()
    store.release("s1_again")
    await store.prefetch(models[3].request("s3")).wait_verified()
    held = set(store.held_digests())
    assert {models[i].tensors[0]["sha256"] for i in (0, 1, 3)} == held
    assert store.bytes_held() <= 1_300_000


async def test_a_limit_that_running_stages_fill_is_an_error_and_evicts_nobody(tmp_path, make_store, shm):
    models = [write_model(tmp_path / str(i), [400_000], seed=i) for i in range(3)]
    store = await make_store(limit_bytes=900_000)
    await store.prefetch(models[0].request("s0")).wait_verified()
    await store.prefetch(models[1].request("s1")).wait_verified()
    store.release("s1")
    big = write_model(tmp_path / "big", [600_000], seed=9)
    stage = store.prefetch(big.request("s2"))
    errors = []
    stage.on_change.append(lambda changed: errors.append(changed.error))
    with pytest.raises(WeightsUnavailable, match="store_gb"):
        await stage.wait_verified()
    assert errors
    assert len(store.held_digests()) == 2
    store.release("s2")
    await store.prefetch(models[2].request("s3")).wait_verified()
    assert len(segments(shm)) == 2


async def test_release_in_the_middle_stops_the_fetch(model, server, store, shm):
    server.hold_after = {LAST_FILE: 800_000}
    stage = store.prefetch(model.request("s1", source=server.url))
    await until(lambda: stage.bytes_fetched > 0)
    waiter = asyncio.create_task(stage.wait_verified())
    await asyncio.sleep(0)
    store.release("s1")
    with pytest.raises(WeightsUnavailable, match="released"):
        await waiter
    server.released.set()
    await until(lambda: not stage.tasks)
    store.evict(None)
    assert store.bytes_held() == 0
    await until(lambda: not list((shm / "store" / "segments").iterdir()))


async def test_a_stage_that_borrows_goes_on_when_the_fetcher_is_released(model, server, store):
    server.hold_after = {LAST_FILE: 800_000}
    first = store.prefetch(model.request("s1", source=server.url))
    await until(lambda: first.bytes_fetched > 1_000_000)
    borrower = store.prefetch(model.request("s2", [*FIRST, "t010"], source=server.url))
    assert borrower.bytes_to_fetch == 0
    store.release("s1")
    server.released.set()
    await borrower.wait_verified()
    assert read_back(borrower.load_spec) == {name: model.data(name) for name in [*FIRST, "t010"]}


async def test_a_stage_that_borrows_goes_on_when_the_fetcher_fails(model, server, store):
    server.hold_after = {LAST_FILE: 800_000}
    first = store.prefetch(model.request("s1", source=server.url))
    await until(lambda: first.bytes_fetched > 1_000_000)
    borrower = store.prefetch(model.request("s2"))
    assert borrower.bytes_to_fetch == 0
    server.status = 404
    server.cut_held = True
    server.released.set()
    with pytest.raises(WeightsUnavailable):
        await first.wait_verified()
    await borrower.wait_verified()
    assert borrower.error is None
    assert read_back(borrower.load_spec) == {t["name"]: model.data(t["name"]) for t in model.tensors}


async def test_an_incomplete_segment_is_dropped_when_nobody_continues_it(model, server, make_store, shm):
    store = await make_store(resume_window_s=0.05)
    server.hold_after = {LAST_FILE: 800_000}
    stage = store.prefetch(model.request("s1", source=server.url))
    await until(lambda: len(store.held_digests()) > 0)
    (sidecar,) = (shm / "store" / "segments").glob("*.landed")
    reader = Progress.open(sidecar)
    store.release("s1")
    server.released.set()
    await until(lambda: not segments(shm))
    assert reader.aborted()
    reader.close()
    assert store.held_digests() == []
    assert not stage.tasks


async def test_equal_tensors_are_stored_once(tmp_path, store):
    model = write_model(tmp_path / "model", [1000])
    twin = model.tensors[0] | {"name": "twin", "begin": 0, "end": 1000, "file": "other.safetensors"}
    effect = model.effect("s1")
    effect["tensors"].append(twin)
    stage = store.prefetch(Prefetch.from_json(effect))
    await stage.wait_verified()
    assert stage.bytes_total == 1000
    read = read_back(stage.load_spec)
    assert read["t000"] == read["twin"]


async def test_one_directory_has_one_daemon(store, make_store):
    with pytest.raises(StoreError, match="another node daemon"):
        await make_store()


async def test_stages_are_paced_while_they_run(model, server, store):
    stage = store.prefetch(model.request("s1", source=server.url, rate_bps=1000))
    await stage.wait_files()
    await asyncio.sleep(0.05)
    assert stage.bytes_fetched < size_of(model) / 2
    store.set_rate("s1", None)
    await stage.wait_verified()
    store.set_rate("unknown", 5)


async def test_the_link_is_shared_by_all_stages(tmp_path, make_store):
    models = [write_model(tmp_path / str(i), [2_000_000], seed=i) for i in range(2)]
    store = await make_store(link_bps=10_000_000)
    stages = [store.prefetch(models[i].request(f"s{i}")) for i in range(2)]
    await asyncio.gather(*(stage.wait_verified() for stage in stages))
    took_ms = max(s.marks["prefetch_end"] for s in stages) - min(s.marks["prefetch_start"] for s in stages)
    # The pacer makes the lower bound certain (one burst may have been saved up); a busy machine has no upper one.
    assert took_ms >= (4_000_000 / 10_000_000 - BURST_S) * 1000 - 10


async def test_the_link_belongs_to_the_stage_with_the_earliest_deadline(tmp_path, make_store):
    models = [write_model(tmp_path / str(i), [2_000_000], seed=i) for i in range(3)]
    store = await make_store(link_bps=10_000_000)
    deadlines = (None, 2_000, 1_000)
    stages = [store.prefetch(models[i].request(f"s{i}", deadline_ms=due)) for i, due in enumerate(deadlines)]
    await asyncio.gather(*(stage.wait_verified() for stage in stages))
    ended = [stage.marks["prefetch_end"] for stage in stages]
    assert ended == sorted(ended, reverse=True)
    # Those that follow have not had half of the link while the first was on it, as equal shares would have given them.
    begun = min(stage.marks["prefetch_start"] for stage in stages)
    assert ended[0] - begun >= 2 * (ended[2] - begun) - 1000 * BURST_S


async def test_small_files_wait_for_no_other_stages_weights(tmp_path, make_store):
    models = [write_model(tmp_path / str(i), [2_000_000], seed=i) for i in range(2)]
    store = await make_store(link_bps=1_000_000)
    first, second = (store.prefetch(models[i].request(f"s{i}", deadline_ms=1 + i)) for i in range(2))
    await second.wait_files()
    assert not first.verified, "the pacer holds it for two seconds"
    await asyncio.gather(first.wait_verified(), second.wait_verified())


async def test_in_the_background_one_small_read_is_under_way_at_a_time(model, server, make_store):
    store = await make_store(link_bps=10_000_000)
    request = model.request("s1", source=server.url, background=True)
    await store.prefetch(request).wait_verified()
    weights = [(begin, end) for name, begin, end in server.requests if name.endswith(".safetensors")]
    assert max(end - begin for begin, end in weights) == 100_000
    assert server.sending_most <= len(model.files)
