"""A shared-memory file system that is really full: before a fetch, in the middle of one, and by whom."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_filesystem import small_filesystem
from support.weights_source import read_back, until, write_model

from engine.weights.stage import WeightsUnavailable
from engine.weights.store import WeightStore

SIZE = 2_000_000


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    with small_filesystem(tmp_path / "small", SIZE) as folder:
        yield folder


@pytest.fixture
async def store(small):
    """A store on it that thinks it has more."""
    store = WeightStore(small / "store", 10**9)
    await store.start()
    yield store
    await store.close()


def fill(folder):
    """A stranger takes all that is free."""
    free = os.statvfs(folder)
    with (folder / "stranger").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)


async def test_a_file_system_that_is_full_in_mid_fetch_fails_the_stage_and_gives_back(tmp_path, store, small):
    model = write_model(tmp_path / "model", [250_000] * 12)
    stage = store.prefetch(model.request("s1"))
    with pytest.raises(WeightsUnavailable, match="shared memory is full"):
        await stage.wait_verified()
    store.release("s1")
    await until(lambda: not stage.tasks)
    store.evict(None)
    assert store.bytes_held() == 0
    await until(lambda: not list((small / "store/segments").iterdir()))
    other = write_model(tmp_path / "other", [1_500_000], seed=2)
    stage = store.prefetch(other.request("s2"))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == {"t000": other.data("t000")}


async def test_unused_weights_make_room_also_for_what_is_small_and_comes_first(tmp_path, store, small):
    old = write_model(tmp_path / "old", [1_000_000])
    await store.prefetch(old.request("old")).wait_verified()
    store.release("old")
    fill(small)
    new = write_model(tmp_path / "new", [400_000], seed=2)
    tokenizer = b"x" * 100_000
    (new.folder / "tokenizer.json").write_bytes(tokenizer)
    new.files[1] |= {"size": len(tokenizer), "sha256": hashlib.sha256(tokenizer).hexdigest()}
    stage = store.prefetch(new.request("new"))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == {"t000": new.data("t000")}
    assert (stage.model_dir / "tokenizer.json").read_bytes() == tokenizer


async def test_unused_files_make_room_for_weights(tmp_path, store, small):
    old = write_model(tmp_path / "old", [1000])
    tokenizer = b"x" * 1_000_000
    (old.folder / "tokenizer.json").write_bytes(tokenizer)
    old.files[1] |= {"size": len(tokenizer), "sha256": hashlib.sha256(tokenizer).hexdigest()}
    await store.prefetch(old.request("old")).wait_verified()
    store.release("old")
    fill(small)
    new = write_model(tmp_path / "new", [400_000], seed=2)
    stage = store.prefetch(new.request("new"))
    await stage.wait_verified()
    assert read_back(stage.load_spec) == {"t000": new.data("t000")}


async def test_what_is_being_given_back_is_waited_for(tmp_path, store, monkeypatch):
    old, kept, new = (write_model(tmp_path / name, [700_000], seed=i) for i, name in enumerate(("old", "kept", "new")))
    for model, name in ((old, "old"), (kept, "kept")):
        await store.prefetch(model.request(name)).wait_verified()
        store.release(name)
    refused = threading.Event()
    pwrite, unlink = os.pwrite, Path.unlink

    def refusable_pwrite(fd, data, offset):
        try:
            return pwrite(fd, data, offset)
        except OSError:
            refused.set()
            raise

    def slow_unlink(path, missing_ok=False):
        if path.suffix == ".evicted":
            assert refused.wait(20)
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "pwrite", refusable_pwrite)
    monkeypatch.setattr(Path, "unlink", slow_unlink)
    store.evict([old.tensors[0]["sha256"]])
    await store.prefetch(new.request("new")).wait_verified()
    assert {model.tensors[0]["sha256"] for model in (kept, new)} == set(store.held_digests())


async def test_what_is_unused_goes_before_a_fetch_fails(tmp_path, store, small):
    old, new, big = (write_model(tmp_path / name, [1_200_000], seed=i) for i, name in enumerate(("old", "new", "big")))
    await store.prefetch(old.request("old")).wait_verified()
    store.release("old")
    await store.prefetch(new.request("new")).wait_verified()
    assert store.held_digests() == [new.tensors[0]["sha256"]]
    stage = store.prefetch(big.request("big"))
    with pytest.raises(WeightsUnavailable, match="shared memory is full"):
        await stage.wait_verified()
    await until(lambda: len(list((small / "store/segments").iterdir())) == 2)
    assert store.held_digests() == [new.tensors[0]["sha256"]]


async def test_a_full_file_system_in_which_all_is_used_fails_with_what_to_do(tmp_path, store, small):
    old = write_model(tmp_path / "old", [1_000_000])
    await store.prefetch(old.request("old")).wait_verified()
    fill(small)
    stage = store.prefetch(write_model(tmp_path / "new", [400_000], seed=2).request("new"))
    with pytest.raises(WeightsUnavailable, match=r"shared memory is full.* Enlarge"):
        await stage.wait_verified()
    assert store.held_digests() == [old.tensors[0]["sha256"]]
