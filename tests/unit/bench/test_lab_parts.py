"""What a lab decides without touching the machine: rates, queues, addresses, configurations, who has it."""

import os
import tomllib
from pathlib import Path

import pytest

from bench.lab import LabBusy, LinkBytes, NodeSettings, claim
from bench.lab.network import addresses
from bench.lab.shaping import shape
from engine.node_config import parse_config


@pytest.mark.parametrize("mbit", [100, 400, 1600, 10_000])
def test_a_queue_holds_a_few_packets_and_is_not_long(mbit: float) -> None:
    shaped = shape(mbit)
    assert shaped.rate_bps == mbit * 125_000
    assert shaped.burst > 65536, "what segmentation offload hands over at once must fit"
    assert shaped.limit >= 2 * shaped.burst or shaped.limit > 10 * 65536
    assert shaped.limit / shaped.rate_bps <= 0.025


def test_a_link_needs_a_rate() -> None:
    for mbit in (0, -1):
        with pytest.raises(ValueError, match="above 0"):
            shape(mbit)


def test_every_host_has_an_address_of_its_own() -> None:
    found = addresses(["node-1", "node-2"])
    assert found == {
        "node-1": "10.77.0.11",
        "node-2": "10.77.0.12",
        "store": "10.77.0.13",
        "client": "10.77.0.14",
        "control": "10.77.0.15",
    }


@pytest.mark.parametrize("names", [["switch"], ["store"], ["a", "a"], ["Node"], ["../x"], [""], ["-a"]])
def test_a_name_that_cannot_be_a_host_is_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="no name for a node"):
        addresses(names)


def test_a_node_is_configured_as_noded_reads_it(tmp_path: Path) -> None:
    settings = NodeSettings("node-1", core=1, memory_gb=2.5, store_gb=0.5)
    config = parse_config(tomllib.loads(settings.toml("10.77.0.11", 0.4)), {"HYDRANT_HOME": str(tmp_path)})
    assert (config.name, config.address, config.ports) == ("node-1", "10.77.0.11", (31000, 31099))
    assert (config.link_bps, config.store_bytes) == (50_000_000, 500_000_000)
    assert [(device.kind, device.cores, device.memory_bytes) for device in config.devices] == [
        ("cpu", (1,), 2_500_000_000)
    ]


@pytest.mark.parametrize(("told", "link_bps"), [(None, 50_000_000), (1.0, 125_000_000), (0, None)])
def test_what_a_node_is_told_of_its_link(told: float | None, link_bps: int | None) -> None:
    settings = NodeSettings("node-1", core=0, link_gbps=told)
    assert parse_config(tomllib.loads(settings.toml("10.77.0.11", 0.4)), {}).link_bps == link_bps


def test_bytes_of_a_while() -> None:
    assert LinkBytes(30, 20) - LinkBytes(10, 5) == LinkBytes(20, 15)


def test_a_lab_has_one_owner_at_a_time(tmp_path: Path) -> None:
    held = claim.take(tmp_path)
    with pytest.raises(LabBusy, match=f"process {os.getpid()} has the lab") as refused:
        claim.take(tmp_path)
    assert refused.value.pid == os.getpid()
    claim.release(held)
    claim.release(claim.take(tmp_path))
