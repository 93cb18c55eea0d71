"""deploy/setup.sh on machines that lack something: one line, with the remedy, and status 1."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cli.services import ROOT

TOOLS = ("bash", "dirname", "awk", "cat", "sha256sum", "cut", "rm", "mktemp", "tail", "sleep", "grep", "mkdir", "head")
GOOD_DF = "echo head; echo /dev/x 1 1 999999999 1 /"
PYTHON_3_10 = "exit 1"
PYTHON_WITHOUT_VENV = 'case "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac'
# Makes an environment whose pip finds only what PIP_FINDS says, and notes what it was asked for.
PYTHON = """[ "$1" = -m ] || exit 0
mkdir -p "$3/bin"; printf '#!/bin/bash\\nexit 0' > "$3/bin/python"
printf '#!/bin/bash\\necho "$*" >> pip.log\\n' > "$3/bin/pip"
printf 'case "$*" in *torch-cpu*%s*) ;; *torch-cpu*) echo no version; exit 1 ;; esac' "$PIP_FINDS" >> "$3/bin/pip"
/bin/chmod +x "$3/bin/python" "$3/bin/pip"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what setup.sh reads, and a PATH with nothing but the usual tools."""
    (tmp_path / "deploy").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "requirements").symlink_to(ROOT / "requirements")
    shutil.copy(ROOT / "deploy/setup.sh", tmp_path / "deploy/setup.sh")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or "")
    stub(tmp_path, "df", GOOD_DF)
    return tmp_path


def stub(checkout: Path, name: str, script: str) -> None:
    path = checkout / "bin" / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def setup(checkout: Path, step: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "bin/bash"), str(checkout / "deploy/setup.sh"), step],
        env={"PATH": str(checkout / "bin"), "HOME": str(checkout / "person"), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_another_python(checkout: Path) -> None:
    for name in ("python3", "python3.11"):
        stub(checkout, name, PYTHON_3_10)
    assert "apt install python3.11" in one_line(setup(checkout, "control"))


def test_a_python_without_its_venv_module(checkout: Path) -> None:
    stub(checkout, "python3.11", PYTHON_WITHOUT_VENV)
    assert "apt install python3.11-venv" in one_line(setup(checkout, "control"))


@pytest.mark.parametrize("step", ["control", "engine", "gpu"])
def test_a_full_disk(checkout: Path, step: str) -> None:
    stub(checkout, "df", "echo head; echo /dev/x 1 1 1000000 1 /")
    assert "Free some space" in one_line(setup(checkout, step))


def test_a_full_home(checkout: Path) -> None:
    stub(checkout, "df", f'case "$2" in .) {GOOD_DF} ;; *) echo head; echo /dev/x 1 1 1000000 1 / ;; esac')
    message = one_line(setup(checkout, "engine"))
    assert "needs 2" in message
    assert str(checkout) in message


def test_an_unknown_step(checkout: Path) -> None:
    assert "usage" in one_line(setup(checkout, "everything"))


def test_torch_is_asked_for_where_pip_looks_and_then_on_the_index_that_is_named(checkout: Path) -> None:
    stub(checkout, "python3.11", PYTHON)
    done = setup(checkout, "engine", PIP_FINDS="mirror.example", HYDRANT_TORCH_INDEX="https://mirror.example/cpu")
    assert done.returncode == 0, done.stderr
    asked = [line for line in (checkout / "pip.log").read_text().splitlines() if "torch-cpu" in line]
    assert ["mirror.example" in line for line in asked] == [False, True]
    assert all("--require-hashes" in line for line in asked)


def test_torch_that_is_nowhere_says_what_to_set(checkout: Path) -> None:
    stub(checkout, "python3.11", PYTHON)
    done = setup(checkout, "engine", PIP_FINDS="nowhere")
    assert done.returncode == 1
    assert "HYDRANT_TORCH_INDEX" in done.stderr.splitlines()[-1]


def test_the_gpu_stack_is_kept_by_engine_and_made_once(checkout: Path) -> None:
    stub(checkout, "python3.11", PYTHON)
    assert setup(checkout, "gpu", PIP_FINDS="x").returncode == 0
    before = (checkout / "pip.log").read_text()
    assert "sglang==0.5.23" in before
    assert "torch-cpu" not in before
    assert setup(checkout, "gpu", PIP_FINDS="x").returncode == 0
    kept = setup(checkout, "engine", PIP_FINDS="x")
    assert kept.returncode == 0
    assert "kept" in kept.stdout
    assert (checkout / "pip.log").read_text() == before


def test_setup_is_a_program() -> None:
    assert os.access(ROOT / "deploy/setup.sh", os.X_OK)
