"""`python -m bench.gateway --quick`: the whole benchmark in seconds, with real Redis, SQLite, ledger and gateway."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gateway.report import DIRECT
from bench.lab.node import ROOT

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="no wrk: deploy/install-wrk.sh, as root")
MEASURED_WITHOUT_OTHERS = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What it printed, and where it wrote."""
    out = tmp_path_factory.mktemp("bench") / "gateway"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HYDRANT_")}
    done = subprocess.run(
        [sys.executable, "-m", "bench.gateway", "--quick", "--out", str(out)],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, out


def test_every_promise_is_named_and_those_without_the_others_are_measured(run: tuple[str, Path]) -> None:
    document = json.loads(run[1].with_suffix(".json").read_text())
    targets = document["targets"]
    assert all(set(target) == {"name", "target", "value", "met"} for target in targets)
    assert len({target["name"] for target in targets}) == len(targets) == MEASURED_WITHOUT_OTHERS + 4
    missing = [target for target in targets if target["value"] is None]
    assert all("LiteLLM proxy" in target["name"] or "sglang-router" in target["name"] for target in missing)
    assert len(missing) == 4
    assert not any(target["met"] for target in missing)


def test_both_variants_were_loaded_and_everything_was_billed(run: tuple[str, Path]) -> None:
    document = json.loads(run[1].with_suffix(".json").read_text())
    assert [sample["variant"] for sample in document["samples"]] == [DIRECT, "hydrant"]
    assert all(sample["json_per_s"] > 0 and sample["tokens_per_s"] > 0 for sample in document["samples"])
    assert document["open_streams"]["errors"] == 0
    assert document["footprint"]["forbidden"] == []
    # At the least each request for JSON within the second that wrk took has become a usage row.
    assert document["usage_rows_settled"] >= document["samples"][1]["json_per_s"] * 0.9


def test_the_table_and_the_picture_are_there(run: tuple[str, Path]) -> None:
    assert "JSON requests/s, Hydrant / LiteLLM proxy" in run[0]
    assert run[1].with_suffix(".png").read_bytes().startswith(b"\x89PNG")
