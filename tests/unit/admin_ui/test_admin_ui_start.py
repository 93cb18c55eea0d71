"""Starting the process: the WSGI entry, and settings that are wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(arguments: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "HYDRANT_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_wsgi_entry_is_an_app(tmp_path: Path) -> None:
    done = run(["-c", "from admin_ui.wsgi import app; print(app.name)"], tmp_path)
    assert (done.returncode, done.stdout) == (0, "admin_ui\n")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HYDRANT_ADMIN_TRUSTED_PROXIES": "some"}, "HYDRANT_ADMIN_TRUSTED_PROXIES must be a whole number"),
        ({"HYDRANT_ADMIN_PORT": "99999"}, "HYDRANT_ADMIN_PORT"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    done = run(["-m", "admin_ui"], tmp_path, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
