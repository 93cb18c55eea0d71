"""How fast a node says that its link is: a number always, for the controller refuses reports without one."""

from types import SimpleNamespace

import psutil
import pytest

from engine.node_config import parse_config
from engine.noded import inventory


@pytest.mark.parametrize(
    ("configured", "speed", "expected"),
    [
        ({"link_gbps": 0.4}, 25_000, 50_000_000),
        ({}, 25_000, 3_125_000_000),
        ({}, 0, inventory.ASSUMED_LINK_BPS),
        ({}, None, inventory.ASSUMED_LINK_BPS),
    ],
    ids=["configured", "told by the interface", "unknown", "no interface"],
)
def test_a_link_has_a_speed(
    configured: dict[str, float], speed: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {} if speed is None else {"lo": SimpleNamespace(speed=speed)}
    monkeypatch.setattr(psutil, "net_if_stats", lambda: told)
    assert inventory.link_bps(parse_config({"node": configured}, {})) == expected
