"""The benchmark's rows on real SGLang over the lab's links: the naive way; a pipeline of compressed weights through the
whole control plane, its consolidation, and the start after it from host memory. All must answer the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.labs import skipped_where_forbidden

from bench.coldstart import floor, naive_row
from bench.coldstart.__main__ import BODY, LINK_BPS, NODE_MBIT
from bench.coldstart.hydrant_row import HydrantRows
from bench.coldstart.models import MODELS, MODELS_DIR, BenchModel
from bench.coldstart.plans import force, largest_stage_bytes
from bench.lab import Lab, NodeSettings
from bench.lab.control_plane import ControlPlane

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def model(smollm2: Path) -> BenchModel:
    """SmolLM2, as the benchmark knows it."""
    (found,) = [model for model in MODELS if model.path == smollm2]
    return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two nodes with a warm runtime each."""
    with skipped_where_forbidden():
        running = Lab([NodeSettings("node-1", 0), NodeSettings("node-2", 1)], MODELS_DIR, NODE_MBIT)
    with running:
        yield running


@pytest.fixture
def plane(lab: Lab) -> Iterator[ControlPlane]:
    """A control plane that does not decide anything yet."""
    plane = ControlPlane(lab)
    yield plane
    plane.close()


def test_the_rows_answer_alike_and_move_each_byte_once(lab: Lab, plane: ControlPlane, model: BenchModel) -> None:
    body = {"model": model.name, **BODY}
    plain = HydrantRows(lab, plane, model, model.name, BODY)
    rows = HydrantRows(lab, plane, model.compressed(), model.name, BODY)
    assert floor.measure(lab, plain.row, plain.spec, 2, body) > 0

    naive = naive_row.run(lab, model, "node-1", "naive", 1, body)
    plane.start()
    plane.wait(lambda: plane.warm_nodes() == set(lab.nodes), "warm runtimes at the controller")
    pipeline = rows.run("hydrant", 1, list(lab.nodes), force(rows.spec, 2, LINK_BPS), keep=True)
    memory = rows.run_again("memory", 1, force(rows.spec, 1, LINK_BPS))

    assert "Paris" in naive.text
    assert naive.text == pipeline.text == memory.text
    assert (naive.stage_count, pipeline.stage_count, memory.stage_count) == (1, 2, 1)
    assert naive.link["node-1"] > model.weight_bytes
    largest = max(pipeline.link.values())
    assert pipeline.largest_stage_bytes <= largest < 1.05 * pipeline.largest_stage_bytes
    assert pipeline.largest_stage_bytes < 0.9 * largest_stage_bytes(plain.spec, 2), "compressed"
    moved = pipeline.detail["consolidation"]
    assert moved["model_bytes"] <= moved["received_bytes"] <= 1.02 * moved["model_bytes"]
    assert max(memory.link.values()) < 1_000_000, "what is in host memory is not fetched"
    assert pipeline.orchestration_s is not None
    assert pipeline.orchestration_s <= pipeline.ttft_s
    assert naive.cpu_s > 0 < pipeline.peak_bytes
