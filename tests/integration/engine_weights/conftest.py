from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.range_server import RangeServer
from support.weights_source import Model, write_model

from engine.weights.source import RetryPolicy
from engine.weights.store import WeightStore

FAST_RETRY = RetryPolicy(tries=4, first_pause_s=0.01, longest_pause_s=0.05, idle_timeout_s=5.0)


@pytest.fixture
def shm() -> Iterator[Path]:
    """A directory in shared memory."""
    folder = Path(tempfile.mkdtemp(prefix="hyd-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Twelve tensors in three files, about 3.6 MB, an empty and a one-byte tensor among them."""
    sizes = [900_000, 1, 170_000, 0, 400_001, 150_000, 65_536, 299_999, 900_000, 4096, 450_000, 223_456]
    return write_model(tmp_path / "model", sizes)


@pytest.fixture
def server(model: Model) -> Iterator[RangeServer]:
    """The model over HTTP."""
    serving = RangeServer(model.folder)
    yield serving
    serving.close()


@pytest.fixture
async def make_store(shm: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start stores on the same directory; closed at the end."""
    stores: list[WeightStore] = []

    async def make(limit_bytes: int = 10**9, **settings: Any) -> WeightStore:
        store = WeightStore(shm / "store", limit_bytes, **{"retry": FAST_RETRY, **settings})
        await store.start()
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
async def store(make_store: Callable[..., Any]) -> WeightStore:
    """A started store with plenty of room."""
    started: WeightStore = await make_store()
    return started
