"""Where there can be no lab, one line says why."""

import subprocess
import sys

import pytest
from support.labs import FORBIDDEN, lab_namespaces, skipped_where_forbidden

from bench.lab import Network, tools
from cli.services import ROOT

TRY = """
from bench.lab import LabUnavailable, Network
try:
    Network(["node-1"])
except LabUnavailable as error:
    print(error.reason)
"""


def reason(*setpriv: str) -> str:
    """Why a process with fewer rights gets no lab."""
    command = ["setpriv", *setpriv, sys.executable, "-B", "-c", TRY]
    tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr
    return tried.stdout


@pytest.fixture(autouse=True)
def root() -> None:
    """Rights can be given up by one who has them only."""
    with skipped_where_forbidden(), Network([]):
        """It can be made here."""


def test_for_another_user_than_root() -> None:
    assert "needs root" in reason("--reuid=65534", "--regid=65534", "--clear-groups")


def test_in_a_container_without_the_right_to_it() -> None:
    said = reason("--bounding-set=-sys_admin")
    assert FORBIDDEN in said
    assert said.count("\n") == 1
    assert lab_namespaces() == []


def test_without_iproute2(monkeypatch: pytest.MonkeyPatch) -> None:
    tools.tool.cache_clear()
    monkeypatch.setattr("shutil.which", lambda name, **_: None if name == "tc" else f"/sbin/{name}")
    with pytest.raises(tools.LabUnavailable, match="no `tc` here: apt-get install -y iproute2"):
        Network(["node-1"])
    tools.tool.cache_clear()
