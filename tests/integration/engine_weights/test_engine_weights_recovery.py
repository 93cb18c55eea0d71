"""What a new daemon makes of the directory that a killed one left."""

import os

import pytest
from support.weights_source import read_back, until

TENSORS = 12


@pytest.fixture
async def left(model, make_store, shm):
    """The root of a store that was closed with one verified stage."""
    store = await make_store()
    await store.prefetch(model.request("s1")).wait_verified()
    await store.close()
    return shm / "store"


async def test_verified_bytes_are_kept_and_nothing_is_fetched_again(model, left, make_store):
    store = await make_store()
    assert len(store.held_digests()) == TENSORS
    (model.folder / "model-00000.safetensors").unlink()
    stage = store.prefetch(model.request("s1"))
    await stage.wait_verified()
    assert stage.bytes_to_fetch == 0
    assert set(read_back(stage.load_spec)) == {t["name"] for t in model.tensors}


async def test_a_stage_that_is_not_asked_for_again_is_forgotten(left, make_store):
    store = await make_store(resume_window_s=0.05)
    store.evict(None)
    assert len(store.held_digests()) == TENSORS
    await until(lambda: not (left / "stages" / "s1").exists())
    store.evict(None)
    assert store.bytes_held() == 0


async def test_a_stage_of_the_earlier_daemon_can_be_released(left, make_store):
    store = await make_store()
    store.release("s1")
    assert not (left / "stages" / "s1").exists()
    store.evict(None)
    assert store.bytes_held() == 0


async def test_an_unknown_stage_is_released_without_touching_anything(left, make_store):
    store = await make_store()
    store.release("../segments")
    assert len(store.held_digests()) == TENSORS


def cut_segment(segment, sidecar):
    os.truncate(segment, segment.stat().st_size - 1)


def tear_header(segment, sidecar):
    with segment.open("r+b") as file:
        file.write(bytes(100))


def lose_segment(segment, sidecar):
    segment.unlink()


def lose_sidecar(segment, sidecar):
    sidecar.unlink()


def cut_sidecar(segment, sidecar):
    os.truncate(sidecar, 1030)


def empty_sidecar(segment, sidecar):
    os.truncate(sidecar, 0)


@pytest.mark.parametrize(
    "damage",
    [cut_segment, tear_header, lose_segment, lose_sidecar, cut_sidecar, empty_sidecar],
    ids=lambda f: f.__name__,
)
async def test_unusable_segments_are_removed_and_fetched_anew(model, left, make_store, damage):
    (segment,) = (left / "segments").glob("*.safetensors")
    damage(segment, segment.with_suffix(".landed"))
    store = await make_store()
    assert store.held_digests() == []
    assert list((left / "segments").iterdir()) == []
    stage = store.prefetch(model.request("s1"))
    await stage.wait_verified()
    assert stage.bytes_fetched == stage.bytes_total
    assert read_back(stage.load_spec) == {t["name"]: model.data(t["name"]) for t in model.tensors}


async def test_a_tensor_without_its_flag_is_fetched_again_into_the_same_segment(model, left, make_store):
    (sidecar,) = (left / "segments").glob("*.landed")
    with sidecar.open("r+b") as file:
        file.seek(1024 + 4)
        file.write(b"\0")
    store = await make_store()
    assert len(store.held_digests()) == TENSORS - 1
    stage = store.prefetch(model.request("s1"))
    await stage.wait_verified()
    tensor = model.tensors[4]
    assert stage.bytes_fetched == tensor["end"] - tensor["begin"]
    assert list((left / "segments").glob("*.landed")) == [sidecar]


async def test_half_written_leftovers_are_swept(left, make_store):
    (left / "files" / "x.tmp").write_bytes(b"half")
    (left / "stages" / "broken").mkdir()
    (left / "stages" / "broken" / "load.json").write_text("{")
    await make_store()
    assert not (left / "files" / "x.tmp").exists()
    assert not (left / "stages" / "broken").exists()
