"""The Grafana dashboard shows metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client import REGISTRY

import gateway.metrics  # noqa: F401 - registers what it may show

DASHBOARD = Path(__file__).resolve().parents[3] / "deploy/grafana/hydrant.json"


def test_every_metric_on_the_dashboard_exists() -> None:
    shown = set(re.findall(r"hydrant_[a-z_]+", json.dumps(json.loads(DASHBOARD.read_text())["panels"])))
    known = {name for name in REGISTRY._names_to_collectors if name.startswith("hydrant_")}
    assert shown
    assert shown <= known


def test_every_metric_of_the_gateway_is_on_the_dashboard() -> None:
    text = DASHBOARD.read_text()
    missing = [
        family.name for family in REGISTRY.collect() if family.name.startswith("hydrant_") and family.name not in text
    ]
    assert missing == []
