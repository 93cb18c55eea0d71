"""What the loading side says when weights do not come. No torch is needed until a tensor has."""

from types import SimpleNamespace

import pytest

from engine.weights import load_spec, reader
from engine.weights.progress import Progress
from engine.weights.reader import WeightsError, iterate


@pytest.fixture
def waiting(tmp_path):
    """A load spec of one tensor that has not landed, and its sidecar."""
    progress = Progress.create(tmp_path / "a.landed", 1)
    entry = load_spec.Entry("w", "F16", (4,), str(tmp_path / "a.safetensors"), str(progress.path), 0, 64, 8)
    load_spec.write(tmp_path / "load.json", "s1", [entry])
    yield tmp_path / "load.json", progress, entry
    progress.close()


def failure(path, **settings):
    with pytest.raises(WeightsError) as error:
        next(iterate(path, **settings))
    return str(error.value)


def test_a_load_spec_that_never_comes(tmp_path):
    assert "did not appear" in failure(tmp_path / "load.json", stall_timeout_s=0.05)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"v": 2, "tensors": []}', '{"v": 1, "tensors": [{"name": "w"}]}'])
def test_a_damaged_load_spec(tmp_path, text):
    (tmp_path / "load.json").write_text(text)
    assert "load spec" in failure(tmp_path / "load.json")


def test_a_stalled_fetch(waiting):
    path, _, _ = waiting
    message = failure(path, stall_timeout_s=0.05)
    assert "no byte arrived" in message
    assert "tensor w" in message


def test_slow_is_not_stalled(waiting, monkeypatch):
    """Bytes that come, though no tensor is complete, put the deadline off; then the abort ends it."""
    path, progress, _ = waiting
    clock = [0.0]

    def sleep(_seconds):
        clock[0] += 9.0
        progress.add_received(1)
        if clock[0] > 100.0:
            progress.abort("the source is gone")

    monkeypatch.setattr(reader, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    assert failure(path, stall_timeout_s=10.0).endswith("the source is gone")


def test_an_aborted_fetch_gives_its_reason(waiting):
    path, progress, _ = waiting
    progress.abort("file x: " + "é" * 2000)
    assert "file x: é" in failure(path)


def test_a_sidecar_that_is_gone(waiting):
    path, progress, _ = waiting
    progress.path.unlink()
    assert "gave the fetch up" in failure(path)


@pytest.mark.parametrize("content", [b"", b"x" * 2000])
def test_a_sidecar_that_is_none(waiting, content):
    path, progress, _ = waiting
    progress.path.unlink()
    progress.path.write_bytes(content)
    assert "progress file" in failure(path)
