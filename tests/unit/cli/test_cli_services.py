"""What `up` checks before it starts, which cores and ports it takes, and how it tells the secrets."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli import services
from cli.demo import _own_environment
from cli.main import cli
from cli.seed import Seeded
from cli.services import CannotStart, DevNode, Ports, Services
from cli.up import dev_nodes, secrets_once


@pytest.mark.parametrize(("cores", "expected"), [({4, 6, 7}, [4, 6]), ({3}, [3, 3])])
def test_nodes_take_cores_that_this_process_has(
    monkeypatch: pytest.MonkeyPatch, cores: set[int], expected: list[int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: cores)
    nodes = dev_nodes(1.0, 32000)
    assert [node.core for node in nodes] == expected
    assert [node.ports for node in nodes] == [(32000, 32099), (32100, 32199)]


def test_a_taken_engine_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        nodes = [DevNode("node-a", core=0, ports=(port - 1, port + 1), link_gbps=1.0)]
        with pytest.raises(CannotStart, match=f"port {port} is taken.*HYDRANT_ENGINE_PORTS"):
            Services(tmp_path, Ports(0, 0, 0), nodes)._check_engine_ports()


def test_a_port_that_another_hydrant_holds_is_said_so(tmp_path: Path) -> None:
    program = "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
    program += "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    environ = {**os.environ, services.MARK: "/home/someone/hydrant"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        said = str(services.taken(port, "the gateway needs it", "HYDRANT_GATEWAY_PORT to a free port"))
        other.communicate()
    assert "the Hydrant that runs in /home/someone/hydrant" in said
    assert "HYDRANT_ENGINE_PORTS" in said


def test_a_sweep_that_hangs_is_trouble_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(services.subprocess, "run", hang)
    node = DevNode("node-a", core=0, ports=(31000, 31001), link_gbps=1.0)
    assert "--sweep" in Services(tmp_path, Ports(1, 2, 3), [node]).sweep(node)


def test_gateway_url_is_one_that_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Services(tmp_path, Ports(8400, 8401, 8402), [])
    monkeypatch.setenv("HYDRANT_GATEWAY_HOST", "0.0.0.0")
    assert here.gateway_url == "http://127.0.0.1:8400"
    monkeypatch.setenv("HYDRANT_GATEWAY_HOST", "10.0.0.5")
    assert here.gateway_url == "http://10.0.0.5:8400"


def test_secrets_are_told_or_the_commands_that_make_new_ones() -> None:
    made = Seeded(api_key="hyd-k", owner_password="pw", owner="o@localhost", hydrant="hydrant")
    key, password = secrets_once(made)
    assert "hyd-k" in key
    assert "pw" in password
    assert "hyd-k" not in repr(made)
    later = Seeded(api_key=None, owner_password=None, owner="o@localhost", hydrant="HYDRANT_HOME=/h hydrant")
    text = "\n".join(secrets_once(later))
    for command in (later.new_key_command, later.new_password_command):
        assert command in text
        group, name, *words = shlex.split(command)[2:]
        found = cli.get_command(None, group).get_command(None, name)  # type: ignore[arg-type,union-attr]
        found.make_context(name, words)  # what is missing or unknown raises UsageError


def test_a_demo_clears_what_this_shell_is_set_up_for_and_keeps_its_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"DATABASE_URL": "x", "REDIS_URL": "x", "HYDRANT_KEY_PEPPER": "x", "HYDRANT_HOLD_DEADLINE_S": "1"}
    ports = {"HYDRANT_GATEWAY_PORT": "18400", "HYDRANT_ENGINE_PORTS": "24000"}
    monkeypatch.setattr(os, "environ", {**os.environ, **variables, **ports, "HYDRANT_HOME": "/elsewhere"})
    _own_environment(tmp_path)
    assert not variables.keys() & os.environ.keys()
    assert ports.items() <= os.environ.items()
    assert os.environ["HYDRANT_HOME"] == str(tmp_path)
