"""A recorded run (record.py) put through the simulator: what it says of each cold start beside what really came.

Cluster, requests, and what was decided for each start (which nodes, which bytes they lacked) are as recorded; all that
takes time is simulated: fetches that share links, runtimes that start meanwhile, requests that wait, workers that
serve, consolidate and end. How long a runtime takes is known from starts that were over by then, as production learns
it (orchestrator/calibration.py), so nothing is told of a start before it has happened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator import memory
from orchestrator.calibration import Observation, StageMarks, learn, observe
from orchestrator.partition import split
from orchestrator.policies import HYDRANT, MakesRoom, Policy
from orchestrator.simulator.cluster import Cluster, Server
from orchestrator.simulator.simulation import ENGINES, SimModel, Simulation
from orchestrator.simulator.startup import StartTimes
from orchestrator.simulator.workload import Request
from orchestrator.simulator.world import World
from orchestrator.types import (
    ClusterState,
    ConsolidationMode,
    ConsolidationPlan,
    ConsolidationTarget,
    KindProfile,
    ModelSpec,
    NoPlan,
    NoPlanReason,
    Plan,
    PlanRequest,
    Profile,
    StagePlan,
)

KIND = "cpu"
SAME_MS = 15_000
"""A simulated start is the recorded one of its model that began no further from it: requests come further apart."""
PROMPT_TOKENS = 5
EVERY_MODEL_BRINGS_ITS_OWN = StartTimes(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Compared:
    """A cold start: ms from its request to the first token, as it came and as simulated; and as its plan predicted."""

    model: str
    stages: int
    real_ms: int
    simulated_ms: int
    planned_ms: int

    @property
    def error(self) -> float:
        """Of the simulation, as a share of what really came."""
        return abs(self.simulated_ms - self.real_ms) / self.real_ms

    @property
    def planned_error(self) -> float:
        """Of what the controller predicted at the time."""
        return abs(self.planned_ms - self.real_ms) / self.real_ms


class Recording:
    """The content of a file that record.py has written."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._requests = document["requests"]
        self._cluster = _cluster(document["nodes"])
        names = [node["name"] for node in document["nodes"]]
        self._hosts = {name: host for name, (host, _) in zip(names, self._cluster.hosts(), strict=True)}
        self._begun_ms = min(request["at_ms"] for request in self._requests)
        self._specs = {model["spec"]["name"]: ModelSpec.from_json(model["spec"]) for model in document["models"]}
        self._keep_alive_ms = {model["spec"]["name"]: model["keep_alive_ms"] for model in document["models"]}
        self.starts = [start for start in document["starts"] if start["first_token_at_ms"] is not None]

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read it."""
        return cls(json.loads(path.read_text()))

    def replay(self) -> list[Compared]:
        """Every start of the recording, beside the simulation."""
        asked = [
            Request(request["at_ms"] - self._begun_ms, request["model"], PROMPT_TOKENS, request["tokens"])
            for request in self._requests
        ]
        models = [
            SimModel(spec, name, self._keep_alive_ms[name], prefill_us_per_token=0)
            for name, spec in self._specs.items()
        ]
        policy = Policy("as recorded", self._as_recorded, MakesRoom.NEVER, learns=False)
        simulation = Simulation(self._cluster, models, ENGINES["hydrant"], policy, asked)
        for count, start in enumerate(self.starts, 1):
            simulation.at(start["first_token_at_ms"] - self._begun_ms, partial(self._teach, self.starts[:count]))
        simulation.run()
        times = {(one.request.model, one.request.at_ms): one.ttft_ms for one in simulation.served}
        found = []
        for start in self.starts:
            request = self._request_of(start)
            simulated_ms = times[request["model"], request["at_ms"] - self._begun_ms]
            assert simulated_ms is not None
            real_ms, planned_ms = request["first_token_ms"], start["predicted_ttft_ms"]
            found.append(Compared(start["model"], len(start["stages"]), real_ms, simulated_ms, planned_ms))
        return found

    def _request_of(self, start: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request that a start was made for: the model's that came last before it had to wait so long."""
        asked_ms = start["requested_at_ms"] - start["waited_ms"]
        mine = [request for request in self._requests if request["model"] == start["model"]]
        found: Mapping[str, Any] = min(mine, key=lambda request: abs(request["at_ms"] - asked_ms))
        return found

    def _teach(self, starts: list[Mapping[str, Any]], world: World) -> None:
        """Tell every model what these starts have taken, as tasks/learning.py and tasks/learnt.py do."""
        seen: list[tuple[str, Observation]] = []
        for start in starts:
            stages = [StageMarks(KIND, stage["marks"]) for stage in start["stages"]]
            first_token_ms = start["first_token_at_ms"] - start["requested_at_ms"]
            found = observe(stages, start["full"], first_token_ms, Profile())
            seen += [(start["model"], observation) for _, observation in found]
        everyone = learn(seen)
        for name, spec in self._specs.items():
            mine = [(model, observation) for model, observation in seen if model == name]
            own = learn(mine, everyone.get("per_stage_floor_ms", 0))
            profile = Profile.from_json(everyone | own)
            world.change_model(name, spec=replace(spec, profiles=(KindProfile(KIND, profile),)))

    def _as_recorded(self, request: PlanRequest, cluster: ClusterState) -> Plan | NoPlan:
        """What was decided then."""
        name, now_ms = request.model.name, cluster.now_ms + self._begun_ms
        mine = [start for start in self.starts if start["model"] == name]
        start = min(mine, key=lambda start: abs(start["requested_at_ms"] - now_ms))
        if start["requested_at_ms"] - now_ms > 0 and start["waited_ms"]:
            # It was not decided at once: its request had to wait for a link.
            wait_ms = start["requested_at_ms"] - now_ms
            return NoPlan(name, NoPlanReason.LINKS_BUSY, {"fetches": 1}, (), wait_ms)
        if abs(start["requested_at_ms"] - now_ms) > SAME_MS:
            # A worker that really lasted a second longer, up to the clock's next tick, took that request.
            return HYDRANT.plan(request, cluster)
        return self._plan(request, start, cluster.now_ms)

    def _plan(self, request: PlanRequest, start: Mapping[str, Any], now_ms: int) -> Plan:
        model, stages = request.model, start["stages"]
        parts = split(model, len(stages))
        due_ms = now_ms + model.slo_ttft_ms
        planned, targets = [], []
        whole = memory.full_bytes(model, KIND)
        for rank, (stage, part) in enumerate(zip(stages, parts, strict=True)):
            node, full = self._hosts[stage["node"]], rank < start["full"]
            size = whole if len(stages) == 1 else memory.stage_bytes(model, part, KIND)
            planned.append(
                StagePlan(rank, node, 0, part.first, part.count, size, full, stage["fetched_bytes"], due_ms, 0)
            )
            if full and len(stages) > 1:
                rest = model.weights_bytes - part.size_bytes
                targets.append(ConsolidationTarget(rank, node, 0, ConsolidationMode.BESIDE_STAGE, whole, whole, rest))
        consolidate = ConsolidationPlan(tuple(targets)) if targets else None
        ttft_ms = start["predicted_ttft_ms"]
        return Plan(model.name, len(stages), start["full"], tuple(planned), ttft_ms, None, False, consolidate, (), ())


def _cluster(nodes: Sequence[Mapping[str, Any]]) -> Cluster:
    """As recorded; all nodes are of one make."""
    node = nodes[0]
    (device,) = node["devices"]
    server = Server(
        kind=KIND,
        count=len(nodes),
        devices=1,
        memory_bytes=device["memory_bytes"],
        link_bps=node["link_bps"],
        cache_bytes=node["store_bytes"],
        times=EVERY_MODEL_BRINGS_ITS_OWN,
    )
    return Cluster((server,))
