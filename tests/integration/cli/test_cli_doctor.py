"""`hydrant doctor` on a machine where all is well, and with each fault planted alone."""

import json
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cli import checks, doctor
from registry.ids import now_ms
from registry.ops.nodes import upsert_from_report


class Noded(BaseHTTPRequestHandler):
    """Answers every GET as a noded answers /v1/report."""

    def do_GET(self) -> None:
        body = json.dumps({"v": 1, "node": "node-a", "warm": {"ready": True}, "stages": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def healthy(hydrant, durable_redis_server, report, tmp_path, monkeypatch) -> Iterator[object]:
    """Everything as it should be: AOF, engine, free ports, one noded that answers and one node elsewhere."""
    home = durable_redis_server.directory / "h"  # short: a unix socket's path has 107 bytes at most
    hydrant.home.rename(home)
    hydrant.home, hydrant.redis = home, durable_redis_server
    monkeypatch.setenv("HYDRANT_HOME", str(home))
    monkeypatch.setenv("REDIS_URL", durable_redis_server.url)
    for service in ("GATEWAY", "ADMIN", "HOSTED"):
        monkeypatch.setenv(f"HYDRANT_{service}_PORT", str(free_port()))
    venv = tmp_path / "checkout" / ".venv-engine"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch(mode=0o755)
    (venv / "lib/python3.11/site-packages/sglang-0.5.23.dist-info").mkdir(parents=True)
    monkeypatch.setattr(doctor, "ROOT", venv.parent)
    monkeypatch.setattr(checks, "DISK_BYTES", 1)
    monkeypatch.setattr(checks, "SHM_BYTES", 1)
    with hydrant.sql() as session:
        upsert_from_report(session, report("node-a"), now_ms())
        upsert_from_report(session, report("gpu-far"), now_ms())
    hydrant.run("tenant", "list")  # makes the secrets
    (home / "node-a").mkdir()
    with socketserver.UnixStreamServer(str(home / "node-a" / "noded.sock"), Noded) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hydrant
        finally:
            server.shutdown()
            thread.join()


def failed(hydrant) -> dict[str, str]:
    """What the doctor wants mended: check -> remedy."""
    document = hydrant.json("doctor", expect=1)
    assert document["ok"] is False
    return {f["check"]: f["remedy"] for f in document["findings"] if f["verdict"] == "failed"}


def test_all_is_well(healthy) -> None:
    document = healthy.json("doctor")
    assert document["ok"] is True
    assert {f["verdict"] for f in document["findings"]} == {"ok"}
    checked = [f["check"] for f in document["findings"]]
    for name in ("python", "disk space", "secrets", "redis", "database", "shared memory", "engine", "node node-a"):
        assert name in checked
    assert "node gpu-far" in checked
    assert "checks passed" in healthy.run("doctor").stdout


def test_redis_is_away(healthy) -> None:
    healthy.redis.kill()
    assert "REDIS_URL" in failed(healthy)["redis"]


def test_redis_without_aof_is_a_warning(hydrant, healthy, redis_server, monkeypatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    (finding,) = [f for f in healthy.json("doctor")["findings"] if f["verdict"] != "ok"]
    assert (finding["check"], finding["verdict"]) == ("redis", "warning")
    assert "appendonly yes" in finding["remedy"]


def test_the_database_is_missing_or_of_another_version(healthy) -> None:
    healthy.run("db", "downgrade", "base", "--yes")
    assert failed(healthy)["database"] == "hydrant db upgrade"
    for path in healthy.home.glob("hydrant.db*"):
        path.unlink()
    begin = "hydrant up (makes it and starts everything here), or only: hydrant db upgrade"
    assert failed(healthy)["database"] == begin
    assert not (healthy.home / "hydrant.db").exists()


def test_the_secrets_are_open_to_others(healthy) -> None:
    path = healthy.home / "secrets.json"
    path.chmod(0o640)
    assert failed(healthy)["secrets"] == f"chmod 600 {path}"
    assert oct(path.stat().st_mode & 0o777) == "0o640", "the doctor changes nothing"


def test_the_engine_is_missing_unless_no_node_runs_here(healthy) -> None:
    (doctor.ROOT / ".venv-engine/bin/python").unlink()
    assert "deploy/setup.sh engine" in failed(healthy)["engine"]
    checked = [f["check"] for f in healthy.json("doctor", "--control-only")["findings"]]
    assert "engine" not in checked
    assert "shared memory" not in checked


def test_there_is_too_little_room(healthy, monkeypatch) -> None:
    monkeypatch.setattr(checks, "DISK_BYTES_INSTALLED", 10**18)
    monkeypatch.setattr(checks, "SHM_BYTES", 10**18)
    assert failed(healthy).keys() == {"disk space", "shared memory"}


def test_a_port_is_taken(healthy, monkeypatch) -> None:
    monkeypatch.setattr(checks, "PROBE_TIMEOUT_S", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("HYDRANT_ADMIN_PORT", str(port))
        remedies = failed(healthy)
    assert remedies.keys() == {f"port {port}"}
    assert "HYDRANT_ADMIN_PORT" in remedies[f"port {port}"]


def test_a_noded_is_dead_and_a_far_node_silent(healthy, report) -> None:
    (healthy.home / "node-b").mkdir()
    dead = healthy.home / "node-b" / "noded.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(os.fspath(dead))
    with healthy.sql() as session:
        upsert_from_report(session, {**report("gpu-far"), "seq": 2}, now_ms() - 60_000)
    remedies = failed(healthy)
    assert remedies.keys() == {"node node-b", "node gpu-far"}
    assert str(dead) in remedies["node node-b"]


def test_a_setting_is_wrong(healthy, monkeypatch) -> None:
    monkeypatch.setenv("HYDRANT_GATEWAY_PORT", "eighty")
    assert "HYDRANT_GATEWAY_PORT" in failed(healthy)["environment"]
    monkeypatch.setenv("HYDRANT_GATEWAY_PORT", "18400")
    monkeypatch.setenv("DATABASE_URL", "mysql://h/db")
    assert failed(healthy).keys() == {"database"}


def test_a_node_configuration_is_wrong(healthy, monkeypatch, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\nnam = "x"\n')
    monkeypatch.setenv("HYDRANT_NODE_CONFIG", str(config))
    assert failed(healthy).keys() == {"node configuration"}


def test_before_anything_was_set_up(bare) -> None:
    bare.redis.kill()
    remedies = failed(bare)
    assert {"redis", "database"} <= remedies.keys()
    text = bare.run("doctor", expect=1).stdout
    assert "-> hydrant up (makes it and starts everything here), or only: hydrant db upgrade" in text
    assert list(bare.home.iterdir()) == [], "the doctor makes nothing"
