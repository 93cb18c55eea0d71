"""The rows with Hydrant: one request to the gateway for a cold model, and everything that follows from it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

from bench.coldstart.models import BenchModel
from bench.coldstart.plans import Forced, largest_stage_bytes
from bench.coldstart.sample import Sample
from bench.coldstart.sampling import Sampler
from bench.lab import Lab, LabError, LinkBytes
from bench.lab.control_plane import ControlPlane
from registry.models import ColdStartEvent, Stage
from tasks.spec import model_spec

CONSOLIDATES_WITHIN_S = 180.0


class HydrantRows:
    """Registers one model and starts it again and again; its samples are said to be of `shown_as`."""

    def __init__(self, lab: Lab, plane: ControlPlane, model: BenchModel, shown_as: str, body: dict[str, Any]) -> None:
        self._lab, self._plane, self._model, self._shown_as = lab, plane, model, shown_as
        self._model_id = plane.register(model.name, model.path, f"{lab.store_url}/{model.folder}")
        self._body = body | {"model": model.name}
        self.row = plane.model(self._model_id)
        self.spec = model_spec(self.row)

    def run(
        self,
        row: str,
        number: int,
        nodes: Collection[str],
        forced: Forced,
        *,
        keep: bool = False,
    ) -> Sample:
        """One cold start on some of `nodes`, with nothing of the model on any of them.

        keep: afterwards it is left to consolidate into one worker before it is stopped, so that one node then holds all
        of it. Raises LabError, also when the planner chose another number of stages than was to be forced.
        """
        self._plane.use_nodes(nodes)
        self.forget()
        before = self._lab.network.counters()
        sample = self._start(row, number, forced)
        if keep:
            sample = replace(sample, detail=sample.detail | {"consolidation": self._consolidate(before)})
        self._plane.stop_model(self._model_id)
        return sample

    def run_again(self, row: str, number: int, forced: Forced) -> Sample:
        """One cold start with what the start before it has left in host memory. Raises LabError."""
        sample = self._start(row, number, forced)
        self._plane.stop_model(self._model_id)
        return sample

    def forget(self) -> None:
        """Empty every node's host memory. Raises LabError."""
        for node in self._lab.nodes.values():
            node.client.apply({"v": 1, "kind": "evict", "group_id": "", "version": 0, "digests": None})
        self._plane.wait(lambda: not any(self._plane.digests_held().values()), "empty host memory on every node")

    def _start(self, row: str, number: int, forced: Forced) -> Sample:
        self._plane.forget_learnt()
        self._plane.set_model(self._model_id, **forced.columns)
        before = self._lab.network.counters()
        with Sampler() as sampler:
            asking = self._lab.start_ask(f"{self._plane.url}/v1/completions", self._body, self._plane.api_key)
            seen = self._lab.first_token(asking)
            after, cost = self._lab.network.counters(), sampler.cost()
            answer = self._lab.finish_ask(asking)
        self._plane.wait(self._marks_are_there, "the start's timed steps")
        start, stages, events = self._plane.last_start(self._model_id)
        if forced.stages is not None and len(stages) != forced.stages:
            raise LabError(f"{row}: {forced.stages} stages were to be forced, the planner chose {len(stages)}")
        asked_wall_s = seen["asked_s"] + time.time() - time.monotonic()
        steps = _steps(stages, events, asked_wall_s)
        return Sample(
            row=row,
            model=self._shown_as,
            round=number,
            ttft_s=seen["first_token_s"] - seen["asked_s"],
            text=answer["text"],
            stages=steps,
            link={stage.node_name: (after[stage.node_name] - before[stage.node_name]).received for stage in stages},
            cpu_s=cost.cpu_s,
            peak_bytes=cost.peak_bytes,
            largest_stage_bytes=largest_stage_bytes(self.spec, len(stages)),
            stage_count=len(stages),
            engine_s=seen["first_token_s"] - seen["asked_s"] - min(step["fork"] for step in steps.values()),
            orchestration_s=_begun_s(steps, min),
            orchestration_last_s=_begun_s(steps, max),
            detail={"predicted_ttft_ms": start.predicted_ttft_ms, "group": _group_steps(events, asked_wall_s)},
        )

    def _marks_are_there(self) -> bool:
        _, stages, events = self._plane.last_start(self._model_id)
        ready = {event.stage_id for event in events if event.kind == "ready"}
        return {stage.id for stage in stages} <= ready

    def _consolidate(self, before: dict[str, LinkBytes]) -> dict[str, Any]:
        """Wait for the single worker; the bytes that came over its node's link from the request on, which should be the
        model's, each once."""
        _, stages, _ = self._plane.last_start(self._model_id)
        if len(stages) == 1:
            return {}
        self._plane.wait(
            lambda: self._plane.heir(self._model_id) is not None, "the consolidation", CONSOLIDATES_WITHIN_S
        )
        heir = self._plane.heir(self._model_id)
        assert heir is not None
        if not self._lab.network.shaped:
            return {}  # there is no link whose bytes could be counted
        received = (self._lab.network.counters()[heir.node_name] - before[heir.node_name]).received
        return {"node": heir.node_name, "model_bytes": self._model.file_bytes, "received_bytes": received}


def _steps(stages: list[Stage], events: list[ColdStartEvent], asked_wall_s: float) -> dict[str, dict[str, float]]:
    """Label of each stage -> step -> seconds after the request."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    labels = {stage.id: f"rank {stage.rank} on {stage.node_name}" for stage in stages}
    for event in events:
        if event.stage_id in labels:
            found[labels[event.stage_id]][event.kind] = event.at_ms / 1000 - asked_wall_s
    return dict(sorted(found.items()))


def _group_steps(events: list[ColdStartEvent], asked_wall_s: float) -> dict[str, float]:
    return {event.kind: event.at_ms / 1000 - asked_wall_s for event in events if not event.stage_id}


def _begun_s(steps: dict[str, dict[str, float]], which: Callable[[Iterable[float]], float]) -> float:
    """When the first (`which` min) or the last (max) stage's process was started and its first byte had come,
    whichever was later; of a stage that needs no byte, when it was started."""
    return max(
        which(step["fork"] for step in steps.values()),
        which(step.get("first_byte", 0.0) for step in steps.values()),
    )
