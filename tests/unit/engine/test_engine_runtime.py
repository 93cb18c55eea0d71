"""The parts of the runtime that need no SGLang: signals, hooks that step aside, the warm protocol."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engine_node import short_directory

from engine.prepare_model import write_atomically
from engine.runtime import stage, warm
from engine.runtime.environment import node_environment
from engine.runtime.installed import Installed
from engine.sglang_plugin import hooks, signals


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with room for socket paths."""
    with short_directory() as path:
        yield path


def test_an_event_is_kept_and_announced(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(signals.EVENTS_VARIABLE, str(short / "events"))
    monkeypatch.setenv(signals.STAGE_VARIABLE, "stg_1")
    monkeypatch.setenv(signals.SIGNAL_VARIABLE, str(short / "s"))
    signals.emit("early")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(short / "s"))
        receiver.settimeout(5)
        signals.emit("ready", rank=1)
        assert receiver.recv(100) == b"stg_1"
    signals.emit("after noded went")
    lines = [json.loads(line) for line in (short / "events").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["early", "ready", "after noded went"]
    assert lines[1]["rank"] == 1


def test_a_kernel_without_buffers_costs_a_wake_up_and_nothing_else(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_buffers(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setenv(signals.EVENTS_VARIABLE, str(short / "events"))
    monkeypatch.setenv(signals.SIGNAL_VARIABLE, str(short / "s"))
    monkeypatch.setattr(socket.socket, "sendto", no_buffers)
    signals.emit("ready")
    assert json.loads((short / "events").read_text())["event"] == "ready"


def test_outside_a_stage_the_hooks_step_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (signals.EVENTS_VARIABLE, hooks.LOAD_SPEC_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    signals.emit("ready")
    assert list(hooks.read_weights(lambda: iter([("w", 1)]))) == [("w", 1)]
    assert hooks.keep_in_own_directory("/dev/shm/x") == "/dev/shm/x"
    assert hooks.load_tokenizer_first(lambda a: a + 1, 1) == 2


def test_keys_do_not_reach_the_log() -> None:
    shown: dict[str, Any] = {"api_key": "secret", "admin_api_key": None, "port": 1}
    assert hooks.without_secrets(shown) == {"api_key": "***", "admin_api_key": None, "port": 1}


def test_the_tokenizer_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "_tokenizers", {})
    loaded: list[str] = []
    for name in ("a", "b", "a"):
        hooks.load_tokenizer_once(lambda path, **_: loaded.append(path) or object(), name, revision=None)
    assert loaded == ["a", "b"]


def test_nodes_with_gpus_keep_cuda_visible() -> None:
    assert node_environment("cpu")["CUDA_VISIBLE_DEVICES"] == ""
    gpu = node_environment("cuda")
    assert "CUDA_VISIBLE_DEVICES" not in gpu
    assert "SGLANG_PLATFORM" not in gpu
    assert gpu["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


BECOME = (
    "import sys, os; from pathlib import Path; from engine.runtime import stage; stage.become_stage(Path(sys.argv[1]))"
)


def make_stage(directory: Path, **env: str) -> Path:
    """A stage directory whose process would get `env`."""
    directory.mkdir()
    (directory / "stage.json").write_text(json.dumps({"argv": [], "env": env, "cores": [0]}))
    return directory


def test_a_process_becomes_a_stage(tmp_path: Path) -> None:
    directory = make_stage(tmp_path / "s", MARK="there")
    code = BECOME + "; print(os.getsid(0) == os.getpid(), os.getcwd(), os.environ['MARK'], os.sched_getaffinity(0))"
    done = subprocess.run(
        [sys.executable, "-c", code, directory], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "", "its output goes to its log"
    assert (directory / "log").read_text().split(maxsplit=3) == ["True", str(directory), "there", "{0}\n"]


def test_a_stage_has_one_process_at_a_time(tmp_path: Path) -> None:
    directory = make_stage(tmp_path / "s")
    code = BECOME + "; open('up', 'w').close(); import time; time.sleep(600)"
    first = subprocess.Popen([sys.executable, "-c", code, directory])
    try:
        while not (directory / "up").exists():
            assert first.poll() is None
        second = subprocess.run([sys.executable, "-c", BECOME, directory], timeout=30, check=False)
        assert second.returncode != 0
        assert "AlreadyRunning" in (directory / "log").read_text()
    finally:
        first.kill()
        first.wait()


def test_a_model_that_never_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MODEL_WAIT_S", 0.05)
    with pytest.raises(TimeoutError, match="never arrived"):
        stage.wait_for_model(tmp_path)


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (b"", "one JSON line"),
        (b"{not json}\n", "JSONDecodeError"),
        (b"[1]\n", "JSON object"),
        (b"{}\n", "stage_dir"),
        (b'{"stage_dir": "/nowhere"}\n', "no stage.json"),
        (b'{"stage_dir": 5}\n', "TypeError"),
        (b"x" * 20_000 + b"\n", "one JSON line"),
    ],
)
def test_the_warm_runtime_answers_nonsense_with_an_error(short: Path, sent: bytes, complaint: str) -> None:
    with warm.listen(short / "w") as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(short / "w"))
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        connection, _ = listener.accept()
        with connection:
            warm.answer_one(listener, connection, {}, Installed([]))
        assert complaint in json.loads(client.recv(4096))["error"]


def test_a_client_that_leaves_does_not_end_the_warm_runtime(short: Path) -> None:
    with warm.listen(short / "w") as listener:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(short / "w"))
        connection, _ = listener.accept()
        with connection:
            warm.answer_one(listener, connection, {}, Installed([]))
    with warm.listen(short / "w"):
        assert os.stat(short / "w").st_mode & 0o777 == 0o600


def test_a_model_directory_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors.index.json").write_text("{}")
    assert not write_atomically(tmp_path / "m", lambda: pytest.fail("it was made again"), 100)
    (tmp_path / "half").mkdir()
    with pytest.raises(SystemExit, match="move it away"):
        write_atomically(tmp_path / "half", lambda: pytest.fail("it was made"), 100)


def test_a_failed_preparation_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> tuple[Any, Any]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "m", fail, 100)
    assert list(tmp_path.iterdir()) == []
