"""Sources that break, shrink, change, vanish or refuse."""

import hashlib
import json
import os

import pytest
from support.range_server import RangeServer
from support.weights_source import read_back, write_model

from engine.weights.spec import Prefetch
from engine.weights.stage import WeightsUnavailable

LAST_FILE = "model-00002.safetensors"


async def refused(store, request):
    """The error of a stage that must fail; nothing of it may be left running."""
    stage = store.prefetch(request)
    with pytest.raises(WeightsUnavailable):
        await stage.wait_verified()
    assert not stage.verified
    return stage.error


@pytest.mark.parametrize("scheme", ["file", "http"])
class TestEverySource:
    @pytest.fixture
    def source(self, scheme, model, server):
        return {"file": model.folder.as_uri(), "http": server.url}[scheme]

    async def test_a_truncated_file(self, model, store, source):
        os.truncate(model.folder / LAST_FILE, 1_000_000)
        error = await refused(store, model.request("s1", source=source))
        assert LAST_FILE in error
        assert "truncated" in error
        assert "tensor t0" in error

    async def test_a_file_cut_before_its_range(self, model, store, source):
        os.truncate(model.folder / LAST_FILE, 10)
        assert "truncated" in await refused(store, model.request("s1", source=source))

    async def test_a_changed_byte(self, model, store, source):
        tensor = model.tensors[8]
        path = model.folder / tensor["file"]
        data = bytearray(path.read_bytes())
        data[tensor["begin"] + 12_345] ^= 1
        path.write_bytes(data)
        error = await refused(store, model.request("s1", source=source))
        assert "t008" in error
        assert "SHA-256 differs" in error
        assert tensor["sha256"] not in store.held_digests()

    async def test_a_missing_weight_file(self, model, store, source):
        (model.folder / LAST_FILE).unlink()
        error = await refused(store, model.request("s1", source=source))
        assert LAST_FILE in error
        assert "does not exist" in error

    async def test_a_missing_directory(self, model, store, source):
        assert "does not exist" in await refused(store, model.request("s1", source=source + "/nowhere"))

    async def test_a_missing_small_file(self, model, store, source):
        (model.folder / "tokenizer.json").unlink()
        error = await refused(store, model.request("s1", source=source))
        assert "tokenizer.json" in error

    @pytest.mark.parametrize("content", [b'{"vocab": {1}}', b'{"vocab": {}', b""])
    async def test_a_changed_small_file(self, model, store, source, content):
        (model.folder / "tokenizer.json").write_bytes(content)
        error = await refused(store, model.request("s1", source=source))
        assert "tokenizer.json" in error

    async def test_what_landed_before_the_failure_is_not_fetched_again(self, model, store, source):
        path = model.folder / LAST_FILE
        whole = path.read_bytes()
        path.unlink()
        await refused(store, model.request("s1", source=source))
        landed = store.held_digests()
        path.write_bytes(whole)
        stage = store.prefetch(model.request("s2", source=source))
        await stage.wait_verified()
        assert stage.bytes_to_fetch == sum(
            t["end"] - t["begin"] for t in model.tensors if t["sha256"] not in landed and t["shape"] != [0]
        )
        assert read_back(stage.load_spec) == {t["name"]: model.data(t["name"]) for t in model.tensors}


async def test_broken_connections_are_resumed_where_they_broke(model, server, store):
    server.break_every, server.breaks = 400_000, 4
    stage = store.prefetch(model.request("s1", source=server.url))
    await stage.wait_verified()
    assert server.breaks == 0
    assert read_back(stage.load_spec) == {t["name"]: model.data(t["name"]) for t in model.tensors}
    resumed = [begin for name, begin, _ in server.requests if name == "model-00000.safetensors"]
    assert len(set(resumed)) > 1
    assert stage.bytes_fetched == stage.bytes_total


async def test_a_source_that_keeps_breaking_is_given_up(model, server, store):
    server.break_every, server.breaks = 0, 10**6
    error = await refused(store, model.request("s1", source=server.url))
    assert "4 times in a row" in error


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "access denied"), (403, "access denied"), (404, "does not exist"), (500, "times in a row")],
)
async def test_http_errors(model, server, store, status, said):
    server.status = status
    assert said in await refused(store, model.request("s1", source=server.url))


async def test_a_server_without_byte_ranges(model, server, store):
    server.ranges = False
    assert "byte ranges" in await refused(store, model.request("s1", source=server.url))


async def test_nobody_listens(model, store):
    gone = RangeServer(model.folder)
    gone.close()
    assert "times in a row" in await refused(store, model.request("s1", source=gone.url))


async def test_a_config_that_is_not_an_object(tmp_path, store):
    model = write_model(tmp_path / "model", [10])
    (model.folder / "config.json").write_bytes(b"[]")
    model.files[0] |= {"size": 2, "sha256": hashlib.sha256(b"[]").hexdigest()}
    assert "config.json" in await refused(store, model.request("s1", config_overrides={"a": 1}))


async def test_a_wrong_size_cannot_borrow_held_bytes(tmp_path, store):
    model = write_model(tmp_path / "model", [1000])
    await store.prefetch(model.request("s1")).wait_verified()
    effect = json.loads(json.dumps(model.effect("s2")))
    effect["tensors"][0] |= {"end": effect["tensors"][0]["end"] - 1, "shape": [999]}
    assert "SHA-256 differs" in await refused(store, Prefetch.from_json(effect))


@pytest.mark.parametrize(
    ("scheme", "environment"),
    [
        ("gs", {"GOOGLE_BASE_URL": "{url}", "GOOGLE_SKIP_SIGNATURE": "true", "GOOGLE_ALLOW_HTTP": "true"}),
        (
            "az",
            {
                "AZURE_ENDPOINT": "{url}",
                "AZURE_STORAGE_ACCOUNT_NAME": "a",
                "AZURE_SKIP_SIGNATURE": "true",
                "AZURE_ALLOW_HTTP": "true",
            },
        ),
    ],
)
async def test_other_buckets(model, store, monkeypatch, tmp_path, scheme, environment):
    bucket = RangeServer(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(url=bucket.url))
    try:
        stage = store.prefetch(model.request("s1", source=f"{scheme}://{model.folder.name}"))
        await stage.wait_verified()
        assert bucket.weight_bytes() == stage.bytes_total
    finally:
        bucket.close()


async def test_symbolic_links_of_a_local_model_are_followed(model, store, tmp_path):
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in model.folder.iterdir():
        (linked / path.name).symlink_to(path)
    await store.prefetch(model.request("s1", source=linked.as_uri())).wait_verified()


async def test_s3_with_the_nodes_own_credentials(model, store, monkeypatch, tmp_path):
    """Object reads of S3 are plain range requests: the counting server can stand for a bucket."""
    bucket = RangeServer(tmp_path)
    for name, value in {
        "AWS_ENDPOINT_URL": bucket.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        source = f"s3://{model.folder.name}"
        stage = store.prefetch(model.request("s1", source=source))
        await stage.wait_verified()
        assert bucket.weight_bytes() == stage.bytes_total
        assert read_back(stage.load_spec) == {t["name"]: model.data(t["name"]) for t in model.tensors}
        store.release("s1")
        store.evict(None)
        bucket.status = 403
        error = await refused(store, model.request("s2", source=source))
        assert "access denied" in error
        assert "hunter2" not in error
    finally:
        bucket.close()
