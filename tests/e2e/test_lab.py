"""A pipeline of real SGLang over two hosts of a lab: fed by the store, asked by the client, each over shaped links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engines import chat
from support.labs import lab_namespaces, skipped_where_forbidden
from support.manifest import API_KEY, launch_effect, prefetch_effect

from bench.lab import Lab, NodeSettings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LAYERS = [15, 15]
GROUP, STAGES = "grp_lab", ("stg_lab_0", "stg_lab_1")


@pytest.fixture
def lab(smollm2: Path) -> Iterator[Lab]:
    """Two nodes with a warm runtime each, and SmolLM2 in the store."""
    with skipped_where_forbidden():
        running = Lab([NodeSettings("node-1", 0), NodeSettings("node-2", 1)], smollm2)
    with running:
        yield running


def test_a_pipeline_over_two_hosts_answers_the_client(lab: Lab, smollm2: Path) -> None:
    before = lab.network.counters()
    nodes = list(lab.nodes.values())
    for rank, node in enumerate(nodes):
        prefetch = prefetch_effect(smollm2, GROUP, STAGES[rank], rank, LAYERS)
        launch = launch_effect(GROUP, STAGES[rank], rank, LAYERS, 31000)
        node.client.apply({**prefetch, "source": lab.store_url})
        node.client.apply({**launch, "dist_address": f"{nodes[0].address}:31001"})
    stages = [node.wait_state(stage, "ready") for node, stage in zip(nodes, STAGES, strict=True)]
    answer = lab.ask(f"{stages[0]['url']}/v1/chat/completions", chat("What is the capital of France?"), API_KEY)

    assert "Paris" in answer["text"]
    assert answer["asked_s"] <= answer["sent_s"] <= answer["first_byte_s"] <= answer["first_token_s"]
    assert answer["first_token_s"] < answer["ended_s"]
    after = lab.network.counters()
    for node, stage in zip(nodes, stages, strict=True):
        received = (after[node.name] - before[node.name]).received
        assert stage["bytes_total"] < received < 1.05 * stage["bytes_total"], "its stage's bytes, and little else"
    assert (after["client"] - before["client"]).received > 0
    directories = [path for node in nodes for path in (node.home, node.config.store_dir, node.config.temp_dir)]
    lab.close()
    assert [path for path in directories if path.exists()] == []
    assert lab_namespaces() == []
