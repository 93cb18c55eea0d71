"""The search for leaked secrets finds them: a test that cannot fail would prove nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.leaks import assert_none_in_logs, leaks

TESTS = Path(__file__).parents[1]
KEY = "hyd-abcdefgh-" + "s" * 43
TOKEN = "hym-abcdefgh-" + "s" * 43
LEAKY = """
import subprocess, logging, sys
from support.leaks import plant

PASSWORD = plant("a password", "swordfish-in-the-log")
TELL = "import sys; print(sys.argv[1], flush=True)"

def test_inherited():
    subprocess.run([sys.executable, "-c", TELL, PASSWORD], check=True)

def test_logged():
    logging.warning("the key is %s", {key!r})

def test_own_log(tmp_path):
    with (tmp_path / "gateway.log").open("w") as log:
        subprocess.run([sys.executable, "-c", TELL, PASSWORD], check=True, stdout=log)

def test_quiet(tmp_path):
    (tmp_path / "gateway.log").write_text("nothing")
    (tmp_path / "secrets.json").write_text(PASSWORD)
"""


def test_a_test_that_leaks_fails(tmp_path: Path) -> None:
    (tmp_path / "test_leaky.py").write_text(LEAKY.format(key=KEY))
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "support.leaks", "-c", "/dev/null", "--rootdir", tmp_path]
    done = subprocess.run(
        [*command, tmp_path], env={"PYTHONPATH": str(TESTS)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert "4 passed, 3 errors" in done.stdout, done.stdout
    assert "a password is in Captured stdout call" in done.stdout
    assert "an API key is in Captured log call" in done.stdout
    assert "gateway.log" in done.stdout
    assert "ERROR test_leaky.py::test_quiet" not in done.stdout


def test_what_a_home_has_made_is_known(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"key_pepper": "0123456789abcdef"}')
    (tmp_path / "hydrant.log").write_text("started\n")
    assert_none_in_logs(tmp_path, {"the key of a group": "f00d"})
    (tmp_path / "hydrant.log").write_text("started with 0123456789abcdef, f00d\n")
    with pytest.raises(AssertionError) as told:
        assert_none_in_logs(tmp_path, {"the key of a group": "f00d"})
    assert "key_pepper is in" in str(told.value)
    assert "the key of a group is in" in str(told.value)
    assert "f00d" not in str(told.value)


def test_keys_and_tokens_are_known_by_their_form() -> None:
    assert leaks({"a page": f"key {KEY}."}) == ["an API key is in a page"]
    assert leaks({"a page": f'"{TOKEN}"'}) == ["a management token is in a page"]
    assert leaks({"a page": "hyd-abcdefgh-... is revoked"}) == []
