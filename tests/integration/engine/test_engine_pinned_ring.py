"""The ring of pinned buffers, in the engine's environment: real torch and SGLang's loaders, a stand-in for a GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
from support.engine_node import ENGINE_PYTHON, ROOT

from engine.runtime.environment import node_environment

PROGRAM = ROOT / "tests/support/pinned_ring_cases.py"
CASES = re.findall(r"^    (\w+),$", PROGRAM.read_text().split("CASES = (")[1], re.MULTILINE)


@pytest.fixture(scope="module")
def errors() -> dict[str, str | None]:
    """What went wrong in each case, None where all was well."""
    environ = os.environ | node_environment("cpu") | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [ENGINE_PYTHON, PROGRAM], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line["error"] for line in told}


@pytest.mark.parametrize("case", CASES)
def test_pinned_ring(errors: dict[str, str | None], case: str) -> None:
    assert errors[case] is None


def test_every_case_was_run(errors: dict[str, str | None]) -> None:
    assert len(CASES) == 12
    assert list(errors) == CASES
