"""What a cold start as a whole makes of faults of the store and of nodes: it recovers, or fails and says why.

Either way nothing stays taken: device memory, bandwidth, shared memory, processes.
"""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.cold_start_bench import ColdStarts, two_nodes, write_weights
from support.engine_node import EngineNode, short_directory
from support.range_server import RangeServer
from support.small_filesystem import small_filesystem
from support.stand_in_node import stand_in_warm

# What differs between databases is tested beside; here time goes into nodes and stores.
pytestmark = pytest.mark.parametrize("empty_engine", ["sqlite"], indirect=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory."""
    return write_weights(tmp_path_factory.mktemp("weights") / "model")


@pytest.fixture
def store(weights: Path) -> Iterator[RangeServer]:
    """The weight store."""
    serving = RangeServer(weights)
    yield serving
    serving.close()


def at_once(do: Callable[[EngineNode], None], nodes: list[EngineNode]) -> None:
    """Do it with all nodes, which takes half as long."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(do, nodes))


@pytest.fixture
def make(here: Any, store: RangeServer) -> Iterator[Callable[..., ColdStarts]]:
    """Starts two nodes (node n0 only with `count` 1) and registers the store's model."""
    with short_directory() as home:
        running: list[EngineNode] = []

        def start(count: int = 2, slo_ttft_ms: int = 600_000, **settings: Any) -> ColdStarts:
            running.extend(two_nodes(home, **settings)[:count])
            at_once(EngineNode.start_noded, running)
            bench = ColdStarts(here, running)
            bench.register(store.url, slo_ttft_ms=slo_ttft_ms)
            store.sent.clear()  # what the registration has read
            return bench

        yield start
        at_once(EngineNode.close, running)


def test_a_store_that_cannot_be_reached_fails_the_start_and_the_next_one_succeeds(make, store, weights):
    bench = make()
    bench.ask()
    store.close()
    first = bench.failed()
    assert store.url in first.reason
    assert bench.all_given_back()
    back = RangeServer(weights, port=int(store.url.rsplit(":", 1)[1]))
    try:
        bench.try_again()
        bench.until(lambda: bench.states() == ["failed", "standalone"], "a worker")
        assert bench.groups()[1].stages[0].node_name not in first.blamed
    finally:
        back.close()
    bench.nothing_is_left()


def test_a_start_that_a_crawling_store_keeps_past_its_deadline_is_abandoned_and_continued_by_the_next(make, store):
    bench = make(count=1, link_gbps=0.02)
    store.rate_bps = 800_000
    bench.ask()
    bench.until(lambda: bench.engines["n0"].client.report()["store"]["digests"], "the first tensors")
    bench.pass_deadlines()
    first = bench.failed()
    bench.gateway.activity("m")  # whoever waited has been told by its gateway, and has gone
    assert re.search(r"not ready in time: stage 0 on n0 is \w+, with \d\.\d of 2\.1 MB fetched", first.reason)
    bench.until(bench.all_given_back, "the reservation")
    bench.until(lambda: store.sending == 0, "the end of the fetch")
    sent, store.rate_bps = store.weight_bytes(), None
    bench.try_again()
    bench.ask()
    bench.until(lambda: bench.states() == ["failed", "standalone"], "a worker")
    failed, served = bench.stages()
    assert served.bytes_total == failed.bytes_to_fetch
    assert 0 < served.bytes_to_fetch < served.bytes_total, "what had landed is not fetched again"
    assert store.weight_bytes() - sent == served.bytes_to_fetch
    bench.nothing_is_left()


def test_connections_reset_at_random_while_a_model_starts_on_two_nodes(make, store):
    bench = make(link_gbps=0.006, slo_ttft_ms=4100)
    store.resets = random.Random(7)
    bench.ask()
    bench.until(lambda: bench.states() == ["stopped", "standalone"], "a pipeline and its standalone worker")
    stages = bench.stages()
    assert [stage.node_name for stage in stages[:2]] == ["n0", "n1"]
    assert store.resets_made >= 3
    wanted = sum(stage.bytes_to_fetch for stage in stages)
    assert wanted == sum(stage.bytes_fetched for stage in stages)
    # A reset every second read of 64 KiB, and each loses what had come and was not yet taken when it broke.
    assert wanted <= store.weight_bytes() <= 1.05 * wanted
    bench.nothing_is_left()


def test_a_bit_that_flips_on_the_way_costs_one_start_and_the_tensor_is_named(make, store, weights):
    bench = make()
    file = max(weights.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    store.flips = {(file.name, file.stat().st_size - 1000)}
    bench.ask()
    first = bench.failed()
    assert "tensor " in first.reason
    assert "SHA-256 differs" in first.reason
    bench.try_again()
    bench.until(lambda: bench.states() == ["failed", "standalone"], "a worker")
    assert bench.groups()[1].stages[0].node_name not in first.blamed
    bench.nothing_is_left()


def test_a_node_whose_shared_memory_is_full_is_avoided(make, tmp_path):
    with small_filesystem(tmp_path / "shm", 1_500_000) as small:
        bench = make(of_n0={"store_dir": small / "store"})
        bench.ask()
        first = bench.failed()
        assert "stage 0 on n0: weights: shared memory is full" in first.reason
        bench.try_again()
        bench.until(lambda: bench.states() == ["failed", "standalone"], "a worker")
        assert [stage.node_name for stage in bench.groups()[1].stages] == ["n1"]
        bench.nothing_is_left()


def test_when_one_of_two_nodes_vanishes_in_mid_fetch_the_bytes_of_the_other_serve_the_next_start(make, store, weights):
    bench = make(link_gbps=0.006, slo_ttft_ms=4100)
    _, second_half = sorted(weights.glob("*.safetensors"))
    store.hold_after = {second_half.name: 30_000}
    bench.ask()
    bench.until(lambda: bench.stages() and bench.stages()[0].verified, "the bytes of the first stage")
    bench.until(lambda: bench.stage_at("n1")["bytes_fetched"] > 0, "some of the second's")
    bench.vanish("n1")
    store.released.set()
    bench.until(lambda: bench.states() == ["failed", "standalone"], "a worker")
    first, second = bench.groups()
    (lone,) = second.stages
    assert "stage 1 on n1: the node has stopped reporting" in first.reason
    assert lone.node_name == "n0"
    assert 0 < lone.bytes_to_fetch < lone.bytes_total
    assert bench.stages()[0].state in ("gone", "failed"), "the first stage of the pipeline has made room"
    bench.engines["n1"].start_noded()
    bench.until(lambda: bench.stages()[1].state in ("gone", "failed"), "the end of what the lost node began")
    bench.nothing_is_left()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_warm_runtime_that_dies_at_the_fork_costs_no_start(make, when):
    bench = make(count=1)
    with stand_in_warm(bench.engines["n0"], failpoint="warm.forked" if when == "after" else None) as warm:
        bench.report()
        bench.ask()
        if when == "before":
            # noded looks each second: it still believes in it when the launch comes.
            bench.run()
            warm.kill()
            warm.wait()
        bench.until(lambda: bench.states() == ["standalone"], "a worker")
        assert len(bench.stage_at("n0")["pids"]) == 1
        assert warm.wait(20) == -signal.SIGKILL
    bench.nothing_is_left()
