"""A real network of namespaces: its rates, its counters, and that the machine's own network is left alone."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from support.labs import Transfer, lab_namespaces, machine, skipped_where_forbidden

from bench.lab import Network

MBIT = 200.0
SIZE = 30_000_000
"""1.2 s at a node's rate."""


@pytest.fixture(scope="module")
def machine_before() -> list[str]:
    """The machine's own network without a lab."""
    return machine()


@pytest.fixture(scope="module")
def network(machine_before: list[str]) -> Iterator[Network]:
    """Two nodes."""
    with skipped_where_forbidden():
        made = Network(["node-1", "node-2"], MBIT)
    with made:
        yield made
    assert lab_namespaces() == []
    assert machine() == machine_before


def near(mbit: float) -> bool:
    """Whether a node's link was full, with nothing beside its payload but headers."""
    return 0.90 <= mbit / MBIT <= 1.02


def test_a_fetch_gets_the_rate_of_the_nodes_link_and_is_counted(network: Network) -> None:
    before = network.counters()
    assert near(Transfer(network, "store", "node-1", SIZE, 5001).mbit())
    now = network.counters()
    moved = {host: now[host] - before[host] for host in now}
    assert SIZE < moved["node-1"].received < 1.03 * SIZE
    assert SIZE < moved["store"].sent < 1.03 * SIZE
    # Acknowledgements go the other way, and the links of others have nothing to do with it.
    assert 0 < moved["node-1"].sent < 0.03 * SIZE
    for host in ("node-2", "client", "control"):
        assert moved[host].received + moved[host].sent < 0.001 * SIZE


def test_two_nodes_fetch_at_full_rate_each(network: Network) -> None:
    both = [Transfer(network, "store", node, SIZE, 5002) for node in ("node-1", "node-2")]
    assert all(near(each.mbit()) for each in both)


def test_both_directions_are_shaped_and_do_not_share(network: Network) -> None:
    both = [Transfer(network, "client", "node-1", SIZE, 5003), Transfer(network, "node-1", "control", SIZE, 5003)]
    assert all(near(each.mbit()) for each in both)


def test_the_store_is_bound_by_a_link_of_its_own(network: Network) -> None:
    assert 3.6 <= Transfer(network, "store", "client", 4 * SIZE, 5004).mbit() / MBIT <= 4.08


def test_client_and_control_are_not_shaped(network: Network) -> None:
    assert Transfer(network, "client", "control", 4 * SIZE, 5005).mbit() > 5 * MBIT


def test_any_process_can_run_in_a_host(network: Network) -> None:
    show = ["ip", "-br", "address"]
    seen = subprocess.run(network.command("node-2", show), capture_output=True, text=True, check=True).stdout
    assert {line.split()[0].split("@")[0] for line in seen.splitlines()} == {"lo", "eth0"}
    assert network.addresses["node-2"] in seen
    with pytest.raises(ValueError, match="no host 'node-9'"):
        network.command("node-9", show)


def test_the_machine_cannot_reach_a_host_and_is_unchanged(network: Network, machine_before: list[str]) -> None:
    assert machine() == machine_before


def test_a_process_outlives_the_thread_that_started_it(network: Network) -> None:
    started = []
    lives = [sys.executable, "-c", "import time; time.sleep(0.3); print('lives')"]
    thread = threading.Thread(target=lambda: started.append(network.start("client", lives, pipe=True)))
    thread.start()
    thread.join()
    assert started[0].communicate(timeout=20)[0] == b"lives\n"
