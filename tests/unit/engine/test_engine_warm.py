"""When a warm runtime refuses to fork, and when it does not stay: changed files, too much memory, switched off."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engine_node import ROOT, short_directory

from engine.node_config import ConfigError, parse_config
from engine.runtime import warm
from engine.runtime.installed import Installed, engine_files


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with room for socket paths."""
    with short_directory() as path:
        yield path


def ask(path: Path, installed: Installed, request: dict[str, object]) -> tuple[dict[str, object], str]:
    """One request to a runtime that imported what is `installed`: its answer, and why it ends then ("": it goes on)."""
    ends = ""
    with warm.listen(path) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(json.dumps(request).encode() + b"\n")
        connection, _ = listener.accept()
        with connection:
            try:
                warm.answer_one(listener, connection, {"pid": 1}, installed)
            except warm.Outdated as error:
                ends = str(error)
        return json.loads(client.recv(4096)), ends


def test_files_that_are_written_anew_or_gone_are_seen(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    other.write_text("2")
    installed = Installed([one, other])
    assert installed.changed() is None
    other.write_text("22")
    assert installed.changed() == other
    one.unlink()
    assert installed.changed() == one


def test_the_plugin_and_the_configuration_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRANT_NODE_CONFIG", str(tmp_path / "node.toml"))
    paths = list(engine_files())
    assert ROOT / "engine/sglang_plugin/hooks.py" in paths
    assert tmp_path / "node.toml" in paths


@pytest.mark.parametrize("request_", [{"ping": True}, {"stage_dir": "/nowhere"}], ids=["ping", "fork"])
def test_an_outdated_runtime_refuses_and_says_so(short: Path, tmp_path: Path, request_: dict[str, object]) -> None:
    file = tmp_path / "plugin.py"
    file.write_text("old")
    installed = Installed([file])
    file.write_text("newer")
    answer, ends = ask(short / "w", installed, request_)
    assert answer == {"error": ends}
    assert f"{file} has changed" in ends


def test_one_that_is_up_to_date_answers(short: Path) -> None:
    assert ask(short / "w", Installed([]), {"ping": True}) == ({"pid": 1}, "")


def test_too_large_a_runtime_does_not_stay(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "import_engine", lambda: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}
    try:
        with pytest.raises(warm.TooLarge, match="raise warm_memory_gb"):
            warm.serve(short / "w", memory_limit=1)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not (short / "w").exists()


def test_one_that_is_switched_off_imports_nothing_and_waits_for_its_end(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("[node]\nwarm = false\n")
    environ = os.environ | {"HYDRANT_HOME": str(tmp_path), "HYDRANT_NODE_CONFIG": str(tmp_path / "node.toml")}
    command = [sys.executable, "-m", "engine.warm"]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "switched off" in process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("value", [1, "no"])
def test_the_switch_is_true_or_false(value: object) -> None:
    with pytest.raises(ConfigError, match="warm: expected true or false"):
        parse_config({"node": {"warm": value}}, {})
