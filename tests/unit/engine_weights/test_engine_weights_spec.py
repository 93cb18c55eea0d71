import contextlib
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.weights.spec import DTYPE_BYTES, Prefetch, SpecError

TENSOR = {
    "name": "a",
    "file": "model.safetensors",
    "begin": 100,
    "end": 112,
    "dtype": "F16",
    "shape": [2, 3],
    "sha256": "0" * 64,
}
EFFECT = {
    "v": 1,
    "kind": "prefetch",
    "group_id": "grp_1",
    "version": 3,
    "stage_id": "stg_1",
    "source": "s3://bucket/prefix",
    "tensors": [TENSOR],
    "files": [{"name": "config.json", "size": 10, "sha256": "1" * 64}],
    "config_overrides": {"tie_word_embeddings": False},
    "rate_bps": 1000,
}


def changed(path, value):
    effect = copy.deepcopy(EFFECT)
    target = effect
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return effect


def test_a_valid_effect_is_parsed():
    prefetch = Prefetch.from_json(EFFECT)
    assert prefetch.tensors[0].nbytes == 12
    assert prefetch.tensors[0].source_name == "a"
    assert prefetch.files[0].name == "config.json"
    assert prefetch.rate_bps == 1000
    assert not prefetch.background
    assert Prefetch.from_json(EFFECT | {"background": True}).background
    assert prefetch.deadline_ms is None
    assert Prefetch.from_json(EFFECT | {"deadline_ms": 1_795_000_000_000}).deadline_ms == 1_795_000_000_000


def test_an_alias_keeps_both_names():
    alias = TENSOR | {"name": "lm_head.weight", "source_name": "a"}
    prefetch = Prefetch.from_json(changed(["tensors"], [TENSOR, alias]))
    assert [(t.name, t.source_name) for t in prefetch.tensors] == [("a", "a"), ("lm_head.weight", "a")]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["v"], 2, "prefetch.v"),
        (["kind"], "launch", "prefetch.kind"),
        (["stage_id"], "../../etc", "prefetch.stage_id"),
        (["stage_id"], "..", "prefetch.stage_id"),
        (["stage_id"], "", "prefetch.stage_id"),
        (["group_id"], 7, "prefetch.group_id"),
        (["version"], True, "prefetch.version"),
        (["rate_bps"], 0, "prefetch.rate_bps"),
        (["rate_bps"], 1.5, "prefetch.rate_bps"),
        (["background"], 1, "prefetch.background"),
        (["deadline_ms"], "soon", "prefetch.deadline_ms"),
        (["deadline_ms"], -1, "prefetch.deadline_ms"),
        (["extra"], 1, "prefetch.extra"),
        (["source"], "ftp://host/dir", "prefetch.source"),
        (["source"], "/etc", "prefetch.source"),
        (["source"], "file://etc/passwd", "prefetch.source"),
        (["source"], "file:///models/../etc", "prefetch.source"),
        (["source"], "https://user:secret@host/dir", "prefetch.source"),
        (["source"], "https://host/dir?sig=secret", "prefetch.source"),
        (["source"], "https:///dir", "prefetch.source"),
        (["source"], "http://[::1/dir", "prefetch.source"),
        (["tensors"], [], "prefetch.tensors"),
        (["tensors"], {}, "prefetch.tensors"),
        (["tensors", 0], "a", "tensors[0]"),
        (["tensors", 0, "name"], "", "tensors[0].name"),
        (["tensors", 0, "name"], "__metadata__", "tensors[0].name"),
        (["tensors", 0, "file"], "/etc/passwd", "tensors[0].file"),
        (["tensors", 0, "file"], "../other/model.safetensors", "tensors[0].file"),
        (["tensors", 0, "file"], "a/../../b", "tensors[0].file"),
        (["tensors", 0, "file"], "a\\..\\b", "tensors[0].file"),
        (["tensors", 0, "file"], "a//b", "tensors[0].file"),
        (["tensors", 0, "file"], "a\0b", "tensors[0].file"),
        (["tensors", 0, "begin"], -1, "tensors[0].begin"),
        (["tensors", 0, "end"], 113, "tensors[0].end"),
        (["tensors", 0, "shape"], [2, 4], "tensors[0].end"),
        (["tensors", 0, "shape"], [2, -3], "tensors[0].shape"),
        (["tensors", 0, "shape"], [True, 6], "tensors[0].shape"),
        (["tensors", 0, "dtype"], "F4", "tensors[0].dtype"),
        (["tensors", 0, "sha256"], "0" * 63, "tensors[0].sha256"),
        (["tensors", 0, "sha256"], "G" * 64, "tensors[0].sha256"),
        (["tensors", 0, "pickle"], 1, "tensors[0].pickle"),
        (["files", 0, "name"], "../config.json", "files[0].name"),
        (["files", 0, "name"], "/config.json", "files[0].name"),
        (["files", 0, "name"], "model.safetensors", "files[0].name"),
        (["files", 0, "name"], "model.safetensors.index.json", "files[0].name"),
        (["files", 0, "size"], -1, "files[0].size"),
        (["files", 0, "size"], 10**12, "files[0].size"),
        (["config_overrides"], [], "prefetch.config_overrides"),
        (["files"], [], "prefetch.config_overrides"),
    ],
)
def test_a_bad_field_is_named(path, value, named):
    with pytest.raises(SpecError) as error:
        Prefetch.from_json(changed(path, value))
    assert str(error.value).startswith(named)


@pytest.mark.parametrize("path", [["source"], ["tensors", 0, "sha256"], ["tensors"], ["files", 0, "size"], ["version"]])
def test_a_missing_field_is_named(path):
    effect = copy.deepcopy(EFFECT)
    target = effect
    for step in path[:-1]:
        target = target[step]
    del target[path[-1]]
    with pytest.raises(SpecError, match=rf"{path[-1]}: missing"):
        Prefetch.from_json(effect)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (TENSOR, "twice"),
        (TENSOR | {"name": "b", "begin": 106, "end": 118}, "overlap"),
        (TENSOR | {"name": "b", "sha256": "2" * 64}, "overlap"),
        (TENSOR | {"name": "b", "source_name": "a", "begin": 200, "end": 212}, "two places"),
    ],
)
def test_contradicting_tensors_are_refused(second, said):
    with pytest.raises(SpecError, match=said):
        Prefetch.from_json(changed(["tensors"], [TENSOR, second]))


def test_secrets_of_a_refused_source_are_not_repeated():
    with pytest.raises(SpecError) as error:
        Prefetch.from_json(changed(["source"], "https://user:hunter2@host/dir"))
    assert "hunter2" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(field=st.sampled_from(sorted(EFFECT)), value=JSON)
def test_any_json_is_parsed_or_refused_with_a_spec_error(field, value):
    with contextlib.suppress(SpecError):
        Prefetch.from_json(changed([field], value))


@given(field=st.sampled_from(sorted(TENSOR)), value=JSON)
def test_any_tensor_is_parsed_or_refused_with_a_spec_error(field, value):
    with contextlib.suppress(SpecError):
        Prefetch.from_json(changed(["tensors", 0, field], value))


@given(
    dtype=st.sampled_from(sorted(DTYPE_BYTES)), shape=st.lists(st.integers(0, 9), max_size=4), off=st.integers(-2, 2)
)
def test_size_must_match_dtype_and_shape(dtype, shape, off):
    size = DTYPE_BYTES[dtype]
    for dim in shape:
        size *= dim
    tensor = TENSOR | {"dtype": dtype, "shape": shape, "begin": 8, "end": 8 + size + off}
    if off == 0:
        assert Prefetch.from_json(changed(["tensors"], [tensor])).tensors[0].nbytes == size
    else:
        with pytest.raises(SpecError, match=r"\.end"):
            Prefetch.from_json(changed(["tensors"], [tensor]))


def test_a_compressed_tensor_has_another_size_at_its_source():
    (tensor,) = Prefetch.from_json(changed(["tensors", 0], TENSOR | {"end": 107, "codec": "blosc"})).tensors
    assert (tensor.nbytes, tensor.source_bytes, tensor.key) == (12, 7, ("0" * 64, 12))


@pytest.mark.parametrize(
    "change",
    [
        {"codec": "zip"}, {"codec": 1}, {"codec": "blosc", "end": 100}, {"codec": "blosc", "end": 50},
        {"codec": "blosc", "shape": [0]}, {"end": 107}, {"codec": None, "end": 107},
    ],
)  # fmt: skip
def test_a_compressed_tensor_that_cannot_be_is_refused(change):
    with pytest.raises(SpecError, match=r"tensors\[0\]\.(codec|end)"):
        Prefetch.from_json(changed(["tensors", 0], TENSOR | change))
