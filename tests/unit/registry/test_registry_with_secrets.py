"""A process gets the secrets it asked for and nothing else; a node's gets none and makes none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry.settings import load_environment

ROOT = Path(__file__).parents[3]
SECRETS = {
    "HYDRANT_KEY_PEPPER": "of-the-keys",
    "HYDRANT_HOSTED_SECRET": "of-the-hosted-process",
    "HYDRANT_FLASK_SECRET": "of-the-sessions",
}


def environment_under(home: Path, *names: str) -> str:
    """What a process sees that was started with these secrets from an environment that has them all."""
    return subprocess.run(
        [sys.executable, "-m", "registry.with_secrets", *names, "--", "env"],
        cwd=ROOT,
        env={
            **os.environ,
            **SECRETS,
            "HYDRANT_HOME": str(home),
            "DATABASE_URL": "sqlite:////of/the/books",
            "REDIS_URL": "redis://:of-redis@10.0.0.1",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_what_was_not_asked_for_is_not_there(tmp_path: Path) -> None:
    seen = environment_under(tmp_path, "hosted_secret")
    assert "HYDRANT_HOSTED_SECRET=of-the-hosted-process" in seen
    for hidden in ("DATABASE_URL", "REDIS_URL", "of-redis", "of-the-keys", "of-the-sessions"):
        assert hidden not in seen


def secrets_named(command: str) -> list[str]:
    """The secrets that a command line of the Procfile or of a systemd unit asks for."""
    return command.partition("registry.with_secrets")[2].partition(" -- ")[0].split()


def test_procfile_and_units_start_the_hosted_process_with_its_own_secret_alone() -> None:
    unit = (ROOT / "deploy/systemd/hydrant-hosted.service").read_text()
    assert secrets_named(unit) == ["hosted_secret"]
    for line in (ROOT / "Procfile").read_text().splitlines():
        if line.startswith("hosted:"):
            assert secrets_named(line) == ["hosted_secret"]
            break
    else:
        pytest.fail("the Procfile starts no hosted process")


def test_a_gateway_gets_two_and_redis_and_no_database(tmp_path: Path) -> None:
    seen = environment_under(tmp_path, "key_pepper", "hosted_secret", "redis_url")
    assert "of-the-keys" in seen
    assert "of-the-hosted-process" in seen
    assert "REDIS_URL=redis://:of-redis@10.0.0.1" in seen
    assert "DATABASE_URL" not in seen


def test_the_environment_can_be_read_without_making_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRANT_HOME", str(tmp_path / "home"))
    assert load_environment().home == tmp_path / "home"
    assert not (tmp_path / "home").exists()


def test_a_node_worker_makes_no_secrets(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import tasks.app"],
        cwd=ROOT,
        env={**os.environ, "HYDRANT_HOME": str(tmp_path / "home"), "HYDRANT_NODE": "node-a"},
        check=True,
    )
    assert not (tmp_path / "home" / "secrets.json").exists()
