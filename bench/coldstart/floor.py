"""How long a start takes that needs no byte: the stages' weights lie in host memory, and noded is asked directly.

What remains is SGLang's own work after the fork, on the cores that all hosts of the lab share.
"""

from __future__ import annotations

import time
from typing import Any

from bench.coldstart.direct import DirectGroup
from bench.lab import Lab
from orchestrator.types import ModelSpec
from registry.models import Model


def measure(lab: Lab, row: Model, spec: ModelSpec, stages: int, body: dict[str, Any]) -> float:
    """Seconds from the fork of the first stage to the first token, over `stages` stages. Raises LabError."""
    group = DirectGroup(row, spec, list(lab.nodes.values())[:stages])
    group.fetch()
    group.wait_fetched()
    try:
        group.launch()
        group.wait_ready()
        seen = lab.ask(group.url, body, group.key)
        forked_s = min(marks["fork"] for marks in group.marks()) / 1000
    finally:
        group.stop()
    return float(seen["first_token_s"] + time.time() - time.monotonic() - forked_s)
