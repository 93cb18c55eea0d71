"""How room is made: unused files go too, segments go beside the event loop, small files are paced like tensors."""

import asyncio
import hashlib
import threading
from pathlib import Path

from support.weights_source import until, write_model

FILE = 300_000


def with_big_file(model, name="tokenizer.json", seed=b"x"):
    content = seed * FILE
    (model.folder / name).write_bytes(content)
    entry = {"name": name, "size": FILE, "sha256": hashlib.sha256(content).hexdigest()}
    model.files = [*(file for file in model.files if file["name"] != name), entry]
    return model


async def test_unused_files_make_room_within_the_limit(tmp_path, make_store):
    old = with_big_file(write_model(tmp_path / "old", [1000], seed=1))
    new = write_model(tmp_path / "new", [400_000], seed=2)
    store = await make_store(limit_bytes=500_000)
    await store.prefetch(old.request("old")).wait_verified()
    store.release("old")
    await store.prefetch(new.request("new")).wait_verified()
    assert store.bytes_held() < 500_000


async def test_memory_is_given_back_beside_the_event_loop(model, store, shm, monkeypatch):
    await store.prefetch(model.request("s1")).wait_verified()
    store.release("s1")
    threads = []
    real = Path.unlink

    def unlink(path, missing_ok=False):
        if path.suffix == ".evicted":
            threads.append(threading.current_thread())
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    store.evict(None)
    assert store.bytes_held() == 0
    assert not list((shm / "store/segments").glob("*.safetensors"))
    await until(lambda: not list((shm / "store/segments").iterdir()))
    assert threads
    assert threading.main_thread() not in threads


async def test_what_a_killed_daemon_was_giving_back_goes(model, make_store, shm):
    store = await make_store()
    await store.close()
    left = shm / "store/segments/0123.evicted"
    left.write_bytes(b"x")
    await make_store()
    assert not left.exists()


async def test_a_small_file_is_paid_for_in_pieces(tmp_path, make_store, server):
    model = with_big_file(write_model(tmp_path / "model", [1000]))
    store = await make_store(link_bps=1_000_000)
    server.requests.clear()
    stage = store.prefetch(model.request("s1", source=server.url))
    await stage.wait_verified()
    reads = [end - begin for name, begin, end in server.requests if name == "tokenizer.json"]
    assert sum(reads) == FILE
    assert max(reads) <= 64 * 1024


async def test_what_is_evicted_while_its_fetch_winds_up(model, store):
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    stage = store.prefetch(model.request("s1"))
    await stage.wait_verified()
    assert stage.tasks
    store.release("s1")
    store.evict(None)
    await until(lambda: not stage.tasks)
    assert errors == []
