"""Registering a source: what is whole is described exactly, what is broken is refused with its reason."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.safetensors_writer import llama_tensors, safetensors_bytes, write_model

from registry.errors import SourceError
from registry.safetensors_header import parse_header
from registry.source_reader import LocalReader
from registry.sources import check_source, inspect_source


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_the_manifest_describes_the_bytes(tmp_path: Path, shards: int, tied: bool) -> None:
    tensors = llama_tensors(layers=3, tied=tied)
    write_model(tmp_path, tensors, shards=shards, tied=tied, layers=3)
    steps: list[tuple[int, int]] = []
    manifest = inspect_source(str(tmp_path), lambda done, total: steps.append((done, total)))

    assert {tensor["name"] for tensor in manifest["tensors"]} == set(tensors)
    for tensor in manifest["tensors"]:
        data = (tmp_path / tensor["file"]).read_bytes()[tensor["begin"] : tensor["end"]]
        dtype, shape, expected = tensors[tensor["name"]]
        assert (tensor["dtype"], tensor["shape"], data) == (dtype, shape, expected)
        assert tensor["sha256"] == hashlib.sha256(expected).hexdigest()
    assert manifest["weight_bytes"] == sum(len(data) for _, _, data in tensors.values())
    assert (manifest["layers"], manifest["tied_embeddings"], manifest["context_length"]) == (3, tied, 128)
    # 2 (keys, values) x 3 layers x 1 head x 4 dimensions x 2 bytes
    assert manifest["kv_bytes_per_token"] == 48
    assert [file["name"] for file in manifest["files"]] == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert steps[-1] == (manifest["weight_bytes"], manifest["weight_bytes"])
    assert steps == sorted(steps)
    json.dumps(manifest)


def test_a_tied_models_spare_projection_is_left_out(tmp_path: Path) -> None:
    write_model(tmp_path, llama_tensors(tied=False), tied=True)
    names = {tensor["name"] for tensor in inspect_source(str(tmp_path))["tensors"]}
    assert "lm_head.weight" not in names


def test_links_to_a_download_cache_are_followed(tmp_path: Path) -> None:
    real = write_model(tmp_path / "blobs", shards=2)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in real.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert inspect_source(snapshot.as_uri()) == inspect_source(str(real))


def refusal(directory: Path) -> str:
    with pytest.raises(SourceError) as caught:
        inspect_source(str(directory))
    return caught.value.message


def shard_of(directory: Path, number: int = 1) -> Path:
    return sorted(directory.glob("model-*.safetensors"))[number - 1]


@pytest.mark.parametrize("kept", [0, 3, 7, 8, 60, -1])
def test_a_truncated_shard_is_refused(tmp_path: Path, kept: int) -> None:
    shard = shard_of(write_model(tmp_path))
    shard.write_bytes(shard.read_bytes()[:kept])
    message = refusal(tmp_path)
    assert shard.name in message
    assert "truncated" in message or "header" in message


def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path) -> None:
    shard = shard_of(write_model(tmp_path))
    shard.write_bytes(shard.read_bytes() + b"x")
    assert "after its last tensor" in refusal(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shard = shard_of(write_model(tmp_path), 2)
    shard.unlink()
    assert f"shard {shard.name} is missing" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.norm.weight": {"dtype": "F16", "shape": [8], "data_offsets": [0, 16]}}, "overlaps"),
        ({"model.norm.weight": {"dtype": "F16", "shape": [9], "data_offsets": [0, 16]}}, "takes 16 bytes"),
        ({"model.norm.weight": {"dtype": "F17", "shape": [8], "data_offsets": [0, 16]}}, "unknown type"),
        ({"model.norm.weight": {"dtype": "F16", "shape": [-8], "data_offsets": [0, 16]}}, "impossible shape"),
        ({"model.norm.weight": {"dtype": "F16", "shape": [True], "data_offsets": [0, 2]}}, "impossible shape"),
        ({"model.norm.weight": {"dtype": "F16", "shape": [8], "data_offsets": [16]}}, "impossible data_offsets"),
        ({"model.norm.weight": {"dtype": "F16", "shape": [8], "data_offsets": [10**9, 10**9 + 16]}}, "unused bytes"),
        ({"model.norm.weight": "F16"}, "not described by an object"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write_model(tmp_path, shards=1)
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(llama_tensors(), header_changes=changes))
    assert reason in refusal(tmp_path)


def test_a_name_that_occurs_twice_in_a_header_is_refused() -> None:
    entry = '{"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}'
    header = f'{{"a": {entry}, "a": {entry}}}'.encode()
    with pytest.raises(SourceError, match="twice"):
        parse_header("m", header, 8 + len(header))


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    write_model(tmp_path, shards=1)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "model.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "not supported"),
        ({"architectures": None}, "not supported"),
        ({"num_hidden_layers": 5}, "layer 4 lacks"),
        ({"num_hidden_layers": 3}, "beyond the 3 layers"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers"),
        ({"vocab_size": 33}, "has shape [32, 8]"),
        ({"torch_dtype": "int4"}, "dtype"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write_model(tmp_path, config_changes=changes)
    assert reason in refusal(tmp_path)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("model.layers.2.self_attn.q_proj.weight", "layer 2 lacks self_attn.q_proj.weight"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight is missing"),
        ("model.norm.weight", "model.norm.weight is missing"),
        ("lm_head.weight", "tie_word_embeddings"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, missing: str, reason: str) -> None:
    tensors = llama_tensors()
    del tensors[missing]
    write_model(tmp_path, tensors)
    assert reason in refusal(tmp_path)


def test_a_tensor_of_another_layout_is_named(tmp_path: Path) -> None:
    write_model(tmp_path, {**llama_tensors(), "transformer.wte.weight": ("U8", [1], b"x")})
    assert "transformer.wte.weight" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "sub/model.safetensors", "", None, 7])
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, name: Any) -> None:
    write_model(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(document))
    assert "own directory" in refusal(tmp_path)


def test_an_index_that_misplaces_a_tensor_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["model.norm.weight"] = shard_of(tmp_path, 1).name
    index.write_text(json.dumps(document))
    assert "model.norm.weight" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("config.json", "no config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "neither"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, file: str, reason: str) -> None:
    write_model(tmp_path, shards=1)
    (tmp_path / file).unlink()
    assert reason in refusal(tmp_path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "absent") in refusal(tmp_path / "absent")


def test_config_json_must_be_json(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_text("{" * 50_000)
    assert "config.json" in refusal(tmp_path)


def test_sources_become_urls(tmp_path: Path) -> None:
    assert check_source(str(tmp_path)) == tmp_path.as_uri()
    assert check_source(f"file://{tmp_path}/") == tmp_path.as_uri()
    assert check_source("https://models.example/smol/") == "https://models.example/smol"
    assert check_source("s3://bucket/prefix") == "s3://bucket/prefix"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "ftp://host/x",
        "javascript:alert(1)",
        "https://user:hunter2@host/x",
        "https://host/x?token=hunter2",
        "https://host/x#hunter2",
        "file://host/x",
        "http:///x",
        "a\nb",
    ],
)
def test_other_sources_are_refused_without_repeating_their_secrets(source: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_source(source)
    assert "hunter2" not in str(caught.value)
    assert caught.value.field == "source"


@pytest.mark.parametrize("source", ["~nobody-has-this-name/x", "http://[::1/x", "http://host:99999/x", "/dir/nul\0"])
def test_a_source_that_no_library_can_parse_is_a_source_error(source: str) -> None:
    with pytest.raises(SourceError, match="source"):
        inspect_source(source)


def test_a_directory_that_may_not_be_entered_is_a_source_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path)
    reader = LocalReader(tmp_path)

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(SourceError, match="Permission denied"):
        reader.size("config.json")
    with pytest.raises(SourceError, match="not a directory that this process can read"):
        LocalReader(tmp_path)
