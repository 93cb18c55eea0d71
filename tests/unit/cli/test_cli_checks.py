"""Each check finds its own fault and says how to mend it."""

import json
import os
import re
import socket
import subprocess
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cli import checks
from cli.checks import Verdict
from cli.services import ROOT, nodes_of_up, procfile
from cli.up import dev_nodes

Usage = namedtuple("Usage", "total used free")


def test_python() -> None:
    assert checks.check_python((3, 11, 9)).verdict is Verdict.OK
    finding = checks.check_python((3, 12, 1))
    assert finding.verdict is Verdict.FAILED
    assert "3.12.1" in finding.detail
    assert "python3.11" in (finding.remedy or "")


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _path: Usage(10**12, 0, 10**12))
    assert checks.check_disk(tmp_path / "not" / "there", engine_to_install=True).verdict is Verdict.OK
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _path: Usage(10**12, 0, 10**9))
    assert checks.check_disk(tmp_path, engine_to_install=False).verdict is Verdict.OK
    finding = checks.check_disk(tmp_path, engine_to_install=True)
    assert finding.verdict is Verdict.FAILED
    assert "1.0 GB free" in finding.detail
    assert finding.remedy


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _path: Usage(8 * 10**9, 0, 1))
    assert checks.check_shm(0, tmp_path).verdict is Verdict.OK
    finding = checks.check_shm(15_200_000_000, tmp_path)
    assert finding.verdict is Verdict.FAILED
    assert "size=16G" in (finding.remedy or "")
    assert checks.check_shm(0, tmp_path / "none").verdict is Verdict.FAILED


def make_engine(venv: Path, version: str) -> Path:
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch(mode=0o755)
    (venv / f"lib/python3.11/site-packages/sglang-{version}.dist-info").mkdir(parents=True)
    return venv


def test_engine(tmp_path: Path) -> None:
    assert checks.check_engine(make_engine(tmp_path / "good", "0.5.23")).verdict is Verdict.OK
    missing = checks.check_engine(tmp_path / "none")
    assert missing.verdict is Verdict.FAILED
    assert "deploy/setup.sh engine" in (missing.remedy or "")
    old = checks.check_engine(make_engine(tmp_path / "old", "0.5.1"))
    assert old.verdict is Verdict.FAILED
    assert "sglang-0.5.1" in old.detail


def test_secrets(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    assert checks.check_secrets(path).verdict is Verdict.OK
    assert not path.exists(), "a check makes nothing"
    secrets = {"key_pepper": "p" * 64, "flask_secret": "f" * 64, "hosted_secret": "h" * 64}
    path.write_text(json.dumps(secrets))
    path.chmod(0o600)
    assert checks.check_secrets(path).verdict is Verdict.OK
    path.chmod(0o644)
    open_to_all = checks.check_secrets(path)
    assert open_to_all.verdict is Verdict.FAILED
    assert open_to_all.remedy == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_text('{"key_pepper": "' + "p" * 64)
    damaged = checks.check_secrets(path)
    assert damaged.verdict is Verdict.FAILED
    assert "p" * 64 not in damaged.detail


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken


def test_a_port_that_another_program_has(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PROBE_TIMEOUT_S", 0.2)
    port = listener.getsockname()[1]
    finding = checks.check_port("gateway", port)
    assert finding.verdict is Verdict.FAILED
    assert f"sport = :{port}" in (finding.remedy or "")
    assert "HYDRANT_GATEWAY_PORT" in (finding.remedy or "")


def test_a_free_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert checks.check_port("admin", port).verdict is Verdict.OK


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    def log_message(self, *args: object) -> None:
        return


def test_a_port_that_hydrant_itself_has() -> None:
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            finding = checks.check_port("gateway", server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
    assert finding.verdict is Verdict.OK
    assert "listens" in finding.detail


def test_a_noded_that_does_not_answer(tmp_path: Path) -> None:
    finding = checks.check_noded("node-a", tmp_path / "noded.sock", of_up=False)
    assert finding.verdict is Verdict.FAILED
    assert "noded" in (finding.remedy or "")


def test_a_node_that_is_silent() -> None:
    assert checks.check_seen("gpu-1", 3_000, 20_000, of_up=False).verdict is Verdict.OK
    finding = checks.check_seen("gpu-1", 90_000, 20_000, of_up=False)
    assert finding.verdict is Verdict.FAILED
    assert "90 s ago" in finding.detail
    assert "gpu-1" in (finding.remedy or "")
    units = re.findall(r"hydrant-\w+", finding.remedy or "")
    assert units
    for unit in units:
        assert (ROOT / f"deploy/systemd/{unit}.service").exists()


def test_what_up_started_is_started_again_by_up(tmp_path: Path) -> None:
    for node in dev_nodes(1.0, 31000):
        (tmp_path / f"{node.name}.toml").write_text(node.toml())
    assert nodes_of_up(tmp_path) == {"node-a", "node-b"}
    findings = [
        checks.check_noded("node-a", tmp_path / "noded.sock", of_up=True),
        checks.check_seen("node-a", 90_000, 20_000, of_up=True),
        checks.check_books(1, 0, 10**9, of_up=True),
    ]
    for finding in findings:
        assert finding.remedy is not None
        assert "hydrant up" in finding.remedy
        assert "systemctl" not in finding.remedy


def test_the_procfile_by_itself_says_what_starts_it() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "HYDRANT_HOME"}
    done = subprocess.run(["sh", "-c", procfile()["redis"]], env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "start all of this with hydrant up" in done.stderr
