"""`python -m bench.recorded.record`: a real run in the lab, kept for the simulator to be compared with (15 min, root).

Three models sleep on four nodes with links of 400 Mbit/s each, and are asked now and then by a seeded schedule, so that
most requests find their model cold, and some starts share links. Before most requests host memory is told to let go of
what nothing uses, as other models' weights would push it out; other starts find their bytes there. Nothing is forced:
the controller plans, starts, consolidates, scales to zero and learns as it does in production.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from bench.coldstart.models import MODELS, MODELS_DIR, BenchModel
from bench.lab import Lab, NodeSettings
from bench.lab.control_plane import ControlPlane
from bench.lab.node import ROOT
from registry.db import read_scope
from registry.models import ColdStart, ColdStartEvent, Device, Group, Model, Node, Stage
from tasks.spec import model_spec

NODE_MBIT = 400.0
NODES = ("node-1", "node-2", "node-3", "node-4")
MEMORY_GB, STORE_GB = 6.0, 3.5
KEEP_ALIVE_S = 8
MEAN_GAP_S = 42.0
"""Between two requests for one model; a start of the largest takes nine seconds, so that most find it cold again."""
FORGOTTEN = 0.65
"""Share of requests before which host memory lets go of what is not in use."""
SEED = 20261126
OUT = ROOT / "bench/results/recorded-run.json"
SMALLER = BenchModel(
    "llama-0.6gb",
    "random-llama-0.6gb",
    ("--random-llama", "--layers", "40", "--hidden", "512", "--shard-mb", "200"),
    slo_ttft_ms=5_500,
)
RECORDED = (*MODELS, SMALLER)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to come, `at_s` after the run's beginning."""

    at_s: float
    model: str
    forgotten: bool


def schedule(duration_s: float, seed: int) -> list[Ask]:
    """Requests for every model at exponentially distributed gaps, in order of time."""
    drawn = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    asks = []
    for model in RECORDED:
        at_s = drawn.expovariate(1 / MEAN_GAP_S)
        while at_s < duration_s:
            asks.append(Ask(at_s, model.name, drawn.random() < FORGOTTEN))
            at_s += drawn.expovariate(1 / MEAN_GAP_S)
    return sorted(asks, key=lambda ask: ask.at_s)


def run(plane: ControlPlane, lab: Lab, asks: list[Ask]) -> list[dict[str, Any]]:
    """Ask on time, whatever is still unanswered; each request with its times, in ms since the epoch."""
    begun = time.monotonic()
    asking: list[tuple[Ask, subprocess.Popen[bytes]]] = []
    for ask in asks:
        time.sleep(max(0.0, begun + ask.at_s - time.monotonic()))
        if ask.forgotten:
            for node in lab.nodes.values():
                node.client.apply({"v": 1, "kind": "evict", "group_id": "", "version": 0, "digests": None})
        body = {"model": ask.model, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
        asking.append((ask, lab.start_ask(f"{plane.url}/v1/completions", body, plane.api_key)))
        print(f"[recorded {time.monotonic() - begun:5.0f} s] asked {ask.model}", flush=True)
    wall_ms = (time.time() - time.monotonic()) * 1000
    found = []
    for ask, process in asking:
        seen = lab.finish_ask(process)
        found.append(
            {
                "model": ask.model,
                "forgotten": ask.forgotten,
                "at_ms": round(seen["asked_s"] * 1000 + wall_ms),
                "first_token_ms": round((seen["first_token_s"] - seen["asked_s"]) * 1000),
                "tokens": len(seen["token_s"]),
            }
        )
    return found


def starts(plane: ControlPlane) -> list[dict[str, Any]]:
    """Every start that a request waited for: the plan's prediction, and the timed steps of its stages."""
    with read_scope(plane.sessions) as session:
        found = []
        for row in session.scalars(select(ColdStart).order_by(ColdStart.requested_at_ms)):
            if row.cause != "demand":
                continue
            marks: dict[str, dict[str, int]] = defaultdict(dict)
            for event in session.scalars(select(ColdStartEvent).where(ColdStartEvent.cold_start_id == row.id)):
                marks[event.stage_id][event.kind] = event.at_ms
            stages = session.scalars(
                select(Stage).join(Group).where(Group.cold_start_id == row.id).order_by(Stage.rank)
            ).all()
            found.append(
                {
                    "model": session.get_one(Model, row.model_id).name,
                    "requested_at_ms": row.requested_at_ms,
                    "waited_ms": row.plan.get("waited_ms", 0),
                    "full": row.plan.get("w"),
                    "predicted_ttft_ms": row.predicted_ttft_ms,
                    "first_token_at_ms": row.first_token_at_ms,
                    "stages": [
                        {"node": stage.node_name, "fetched_bytes": stage.bytes_to_fetch, "marks": marks[stage.id]}
                        for stage in stages
                    ],
                }
            )
        return found


def cluster(plane: ControlPlane) -> list[dict[str, Any]]:
    """The nodes as the planner had them."""
    with read_scope(plane.sessions) as session:
        return [
            {
                "name": node.name,
                "link_bps": node.link_bps,
                "store_bytes": node.report["store"]["limit_bytes"],
                "devices": [
                    {"kind": device.kind, "memory_bytes": device.memory_bytes}
                    for device in session.scalars(select(Device).where(Device.node_name == node.name))
                ],
            }
            for node in session.scalars(select(Node).order_by(Node.name))
        ]


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(prog="python -m bench.recorded.record", description="Record a real run.")
    parser.add_argument("--seconds", type=float, default=780)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    for model in RECORDED:
        model.prepare()
    settings = [
        NodeSettings(name, index % 2, MEMORY_GB, STORE_GB, ports=(31000 + 100 * index, 31099 + 100 * index))
        for index, name in enumerate(NODES)
    ]
    with Lab(settings, MODELS_DIR, NODE_MBIT) as lab:
        plane = ControlPlane(lab)
        try:
            models = []
            for model in RECORDED:
                options_of = {"slo_ttft_ms": model.slo_ttft_ms, "keep_alive_s": KEEP_ALIVE_S}
                model_id = plane.register(model.name, model.path, f"{lab.store_url}/{model.folder}", **options_of)
                spec = model_spec(plane.model(model_id))
                models.append({"spec": spec.to_json(), "keep_alive_ms": KEEP_ALIVE_S * 1000})
            plane.start()
            requests = run(plane, lab, schedule(options.seconds, SEED))
            recorded = starts(plane)
            document = {
                "machine": "two cores of a virtual machine without a GPU; every node a network namespace",
                "links": lab.network.shaped,
                "nodes": cluster(plane),
                "models": models,
                "requests": requests,
                "starts": recorded,
            }
        finally:
            plane.close()
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(requests)} requests, {len(recorded)} cold starts: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
