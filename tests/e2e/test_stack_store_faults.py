"""Cold starts on real SGLang while the weight store or a whole node fails: the client's request is answered."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.asking import Ask
from support.range_server import RangeServer
from support.stack import SERVING, URGENT_MS, Stack, wait_for

from engine.noded import processes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def serve() -> Iterator[Callable[[Path], RangeServer]]:
    """Serves a model directory over HTTP."""
    made: list[RangeServer] = []

    def start(folder: Path) -> RangeServer:
        made.append(RangeServer(folder))
        return made[-1]

    yield start
    for server in made:
        server.close()


def test_connections_reset_at_random_while_a_model_starts_on_two_nodes(
    stack: Stack, tiny: Callable[..., str], smollm2: Path, serve: Callable[[Path], RangeServer]
) -> None:
    stack.evict_all()
    server = serve(smollm2)
    model_id = tiny("resets", server.url, slo_ttft_ms=URGENT_MS)
    server.sent.clear()
    server.resets = random.Random(1)
    ask = Ask(stack, "resets")

    def fetched() -> int | None:
        """Bytes that the stages lacked, once all of them have come. Asked of the nodes: consolidation is not yet on."""
        reports = [stack.noded(node.name).report() for node in stack.services.nodes]
        stages = [stage for report in reports for stage in report["stages"] if stage["group_id"] == group.id]
        if len(stages) < 2 or not all(stage["verified"] for stage in stages):
            return None
        return sum(stage["bytes_to_fetch"] for stage in stages)

    group = wait_for("a start", lambda: stack.group_in(model_id, "starting"))
    assert len(group.stages) == 2
    wanted = wait_for("the weights", fetched, 90)
    assert wanted <= server.weight_bytes() <= 1.02 * wanted
    assert server.resets_made > 20
    ask.answered()
    ask.billed_once()
    assert stack.groups(model_id)[0].ready_at_ms is not None, "the first start has succeeded"


def test_a_node_that_vanishes_in_mid_fetch_is_replaced_by_another(
    stack: Stack, tiny: Callable[..., str], tiny_llama: Path, serve: Callable[[Path], RangeServer]
) -> None:
    stack.evict_all()
    server = serve(tiny_llama)
    model_id = tiny("vanishes", server.url)
    server.hold_after = {path.name: 100_000 for path in tiny_llama.glob("*.safetensors")}
    ask = Ask(stack, "vanishes")
    group = wait_for("a start", lambda: stack.group_in(model_id, "starting"))
    (stage,) = group.stages
    noded = stack.noded(stage.node_name)
    wait_for(
        "some bytes", lambda: any(s["group_id"] == group.id and s["bytes_fetched"] for s in noded.report()["stages"])
    )
    gone = [f"{part}-{stage.node_name[-1]}" for part in ("worker", "noded", "warm")]
    for name in gone:
        stack.kill(name)
    for pids in processes.under(stack.home / stage.node_name / "stages").values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    server.released.set()
    try:
        ask.answered()
        ask.billed_once()
        first, second = stack.groups(model_id)
        assert first.state == "failed"
        assert "the node has stopped reporting" in (first.reason or "")
        assert second.state in SERVING
        assert [s.node_name for s in second.stages] != [stage.node_name]
    finally:
        for name in gone:
            stack.run(name)
        wait_for("warm runtimes", stack.nodes_warm, 120)


def test_a_bit_that_flips_on_the_way_costs_one_start_and_no_request(
    stack: Stack, tiny: Callable[..., str], tiny_llama: Path, serve: Callable[[Path], RangeServer]
) -> None:
    stack.evict_all()
    server = serve(tiny_llama)
    model_id = tiny("flips", server.url)
    file = max(tiny_llama.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    server.flips = {(file.name, file.stat().st_size - 1000)}
    Ask(stack, "flips").answered().billed_once()
    first, second = stack.groups(model_id)
    assert first.state == "failed"
    assert "tensor " in (first.reason or "")
    assert "SHA-256 differs" in (first.reason or "")
    assert second.state in SERVING
