"""A compressed copy of a model: the same tensors in fewer bytes, and what is broken in it is refused."""

import json
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.safetensors_writer import llama_tensors, safetensors_bytes, write_model

from registry import compressed_copy
from registry.compressed_copy import write_compressed_copy
from registry.compressed_format import METADATA_PREFIX, HeaderTensor, decoded, description, encoded
from registry.errors import SourceError
from registry.sources import inspect_source


def weights(count: int) -> bytes:
    rng = random.Random(1)
    return b"".join(struct.pack("<e", rng.gauss(0, 0.02)) for _ in range(count))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two layers; an embedding that is worth compressing, noise that is not, and small tensors."""
    tensors = llama_tensors(layers=2, hidden=256, vocab=300)
    tensors["model.embed_tokens.weight"] = ("F16", [300, 256], weights(300 * 256))
    config = {"hidden_size": 256, "vocab_size": 300}
    return write_model(tmp_path / "model", tensors, layers=2, config_changes=config)


def identity(directory: Path) -> dict[str, tuple[object, ...]]:
    return {t["name"]: (t["dtype"], t["shape"], t["sha256"]) for t in inspect_source(str(directory))["tensors"]}


def test_the_copy_holds_the_same_tensors_in_fewer_bytes(tmp_path: Path, model: Path) -> None:
    steps: list[tuple[int, int]] = []
    copy = tmp_path / "copy"
    before, after = write_compressed_copy(str(model), copy, lambda done, total: steps.append((done, total)))
    assert after < before == inspect_source(str(model))["weight_bytes"]
    assert identity(copy) == identity(model)
    found, plain = inspect_source(str(copy)), inspect_source(str(model))
    for field in set(found) - {"tensors"}:
        assert found[field] == plain[field], field
    packed = {t["name"] for t in found["tensors"] if "codec" in t}
    assert packed == {"model.embed_tokens.weight"}
    assert sum(t["end"] - t["begin"] for t in found["tensors"]) == after
    assert steps == sorted(steps)
    assert steps[-1] == (before, before)


def test_a_copy_is_made_once(tmp_path: Path, model: Path) -> None:
    copy = tmp_path / "copy"
    write_compressed_copy(str(model), copy)
    with pytest.raises(SourceError, match="exists already"):
        write_compressed_copy(str(model), copy)
    with pytest.raises(SourceError, match="compressed already"):
        write_compressed_copy(str(copy), tmp_path / "again")
    assert not list(tmp_path.glob("again*"))


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed_copy, "decoded", lambda tensor, pieces: [b"something else"])
    with pytest.raises(SourceError, match="did not come back"):
        write_compressed_copy(str(model), tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))


def test_what_an_interrupted_copy_left_is_not_taken_for_ours(tmp_path: Path, model: Path) -> None:
    (tmp_path / "copy.partial").mkdir()
    with pytest.raises(SourceError, match="remove it first"):
        write_compressed_copy(str(model), tmp_path / "copy")
    assert (tmp_path / "copy.partial").is_dir()


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.999])
def test_a_changed_byte_is_refused(tmp_path: Path, model: Path, at: float) -> None:
    copy = tmp_path / "copy"
    write_compressed_copy(str(model), copy)
    tensor = next(t for t in inspect_source(str(copy))["tensors"] if "codec" in t)
    path = copy / tensor["file"]
    data = bytearray(path.read_bytes())
    data[tensor["begin"] + int(at * (tensor["end"] - tensor["begin"]))] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SourceError, match=tensor["name"]):
        inspect_source(str(copy))


GOOD = {"dtype": "F16", "shape": [50], "sha256": "0" * 64}


@pytest.mark.parametrize(
    "said",
    [
        "", "[]", "{}", "nonsense",
        *(json.dumps({key: value for key, value in GOOD.items() if key != lacking}) for lacking in GOOD),
        *(json.dumps(GOOD | {"dtype": dtype}) for dtype in ("F99", ["F16"], None)),
        *(json.dumps(GOOD | {"shape": shape}) for shape in ([-2], [0], "2", [True], [2**50])),
        *(json.dumps(GOOD | {"sha256": digest}) for digest in ("x", 0, "0" * 63)),
    ],
)  # fmt: skip
def test_a_description_that_says_nothing_is_refused(tmp_path: Path, said: str) -> None:
    write_model(tmp_path, shards=1)
    name = "model.embed_tokens.weight"
    tensors = llama_tensors() | {name: ("U8", [100], bytes(100))}
    metadata = {"__metadata__": {METADATA_PREFIX + name: said}}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(tensors, header_changes=metadata))
    with pytest.raises(SourceError, match=r"model\.safetensors is corrupt: compressed tensor"):
        inspect_source(str(tmp_path))


@pytest.mark.parametrize("metadata", [[], "x", 1])
def test_metadata_that_is_no_object_is_refused(tmp_path: Path, metadata: object) -> None:
    write_model(tmp_path, shards=1)
    text = safetensors_bytes(llama_tensors(), header_changes={"__metadata__": metadata})
    (tmp_path / "model.safetensors").write_bytes(text)
    with pytest.raises(SourceError, match="__metadata__ is not an object"):
        inspect_source(str(tmp_path))


def a_tensor(size: int) -> HeaderTensor:
    return {"name": "t", "dtype": "F16", "shape": [size // 2], "begin": 0, "end": 1, "codec": "blosc"}


@given(st.binary(min_size=1, max_size=3000).map(lambda data: data * 2), st.integers(1, 500))
def test_any_bytes_come_back(data: bytes, step: int) -> None:
    packed = encoded(data, "F16")
    pieces = [packed[at : at + step] for at in range(0, len(packed), step)]
    assert b"".join(decoded(a_tensor(len(data)), pieces)) == data


@pytest.mark.parametrize("size", [2, 1998, 2002])
def test_another_size_than_described_is_refused(size: int) -> None:
    packed = encoded(bytes(2000), "F16")
    with pytest.raises(SourceError, match="cannot be decoded"):
        list(decoded(a_tensor(size), [packed]))


def test_descriptions_are_json() -> None:
    assert json.loads(description("BF16", [3, 4], "0")) == {"dtype": "BF16", "shape": [3, 4], "sha256": "0"}
