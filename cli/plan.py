"""`hydrant plan`: what the planner would decide now, why, and what it would decide if one thing were different."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from cli.command import Command, reporting
from cli.console import Console
from cli.params import GIGABITS, GIGABYTES
from cli.units import rate, seconds, size
from registry.ids import now_ms

if TYPE_CHECKING:
    from cli.workspace import Workspace
    from orchestrator.control import ControlState
    from orchestrator.types import ModelSpec, NoPlan, Plan


@click.command(
    cls=Command,
    examples=[
        "hydrant plan qwen3-8b                          in one line",
        "hydrant plan qwen3-8b --explain                with every candidate and the reasons",
        "hydrant plan qwen3-8b --explain --link-gbps 100",
        "hydrant plan qwen3-8b --explain --slo-ms 30000",
        "hydrant plan qwen3-8b --explain --free-gb 24 --instances 2",
    ],
)
@click.argument("model")
@click.option("--explain", "explained", is_flag=True, help="Say why, and show every candidate that was judged.")
@click.option("--instances", type=click.IntRange(1, 1000), default=1, show_default=True, help="Workers needed at once.")
@click.option("--link-gbps", type=GIGABITS, help="What if every node's link had this rate?")
@click.option("--slo-ms", type=click.IntRange(1), help="What if the first token had to come within this?")
@click.option("--free-gb", type=GIGABYTES, help="What if every device had just this much memory free?")
@reporting
def plan(
    console: Console,
    model: str,
    explained: bool,
    instances: int,
    link_gbps: int | None,
    slo_ms: int | None,
    free_gb: int | None,
) -> None:
    """How MODEL would be started now: over how many nodes, on which devices, and what to expect of it.

    Reads the present state of the cluster and changes nothing. Each what-if changes that one thing only. Ends with
    status 1 when nothing could be started.
    """
    from cli.services import nodes_of_up
    from cli.what_if import suppose
    from cli.workspace import Workspace
    from orchestrator.explain import explain
    from orchestrator.policies import POLICIES
    from orchestrator.types import Plan
    from registry.ops import models

    with Workspace(console) as here:
        with here.read() as session:
            row = models.resolve_name(session, model)
            models.refuse_hosted(row)
            name, enabled = row.name, row.enabled
        state = _state(console, here)
        decide = POLICIES[here.settings.policy].plan
    view = state.models[name]
    request = view.request(state.now_ms, instances)
    cluster = state.cluster_for(view)
    if view.failures and view.avoid:
        # As the controller does: nodes on which the last start broke come last.
        elsewhere = state.cluster_for(view, without=view.avoid)
        if isinstance(decide(request, elsewhere), Plan):
            cluster = elsewhere
    spec, cluster = suppose(request.model, cluster, link_bps=link_gbps, slo_ttft_ms=slo_ms, free_bytes=free_gb)
    outcome = decide(replace(request, model=spec), cluster)

    supposed = _supposed(link_gbps, slo_ms, free_gb)
    notes = [f"what if: {text}" for text in supposed] + _notes(name, enabled, state, nodes_of_up(here.settings.home))
    explanation = explain(outcome) + _untried(spec, outcome)
    planned = isinstance(outcome, Plan)
    console.show(
        {
            "model": name,
            "plan": outcome.to_json() if planned else None,
            "refusal": None if planned else outcome.to_json(),
            "explanation": explanation,
            "what_if": {"link_bps": link_gbps, "slo_ttft_ms": slo_ms, "free_bytes": free_gb},
            "notes": notes,
        },
        [*notes, *(explanation if explained else [_in_short(outcome)])],
    )
    if not planned:
        click.get_current_context().exit(1)


def _state(console: Console, here: "Workspace") -> "ControlState":
    from redis.exceptions import RedisError

    from cli.workspace import connect_redis
    from tasks.demand import Demand, read_demand
    from tasks.state import load_state

    at_ms = now_ms()
    demand = Demand()
    try:
        with connect_redis(here.settings.redis_url.get_secret_value()) as redis:
            demand = read_demand(redis, at_ms)
    except (RedisError, OSError):
        console.warn("Redis does not answer, so nobody's waiting time is known; planned as if nobody had waited")
    with here.read() as session:
        return load_state(session, demand, at_ms, store_bps=here.settings.store_bps)


def _supposed(link_bps: int | None, slo_ms: int | None, free_bytes: int | None) -> list[str]:
    return [
        text
        for given, text in (
            (link_bps, f"every link had {rate(link_bps or 0)}"),
            (slo_ms, f"the first token had to come within {seconds(slo_ms)}"),
            (free_bytes, f"every device had {size(free_bytes or 0)} free"),
        )
        if given is not None
    ]


def _notes(name: str, enabled: bool, state: "ControlState", of_up: frozenset[str]) -> list[str]:
    notes = []
    if not enabled:
        notes.append(f"{name} is disabled, so nothing starts it; enable it: hydrant model enable {name}")
    if state.lost:
        remedy = "; start them: hydrant up" if state.lost <= of_up else ""
        notes.append(f"not counted, because they have stopped reporting: {', '.join(sorted(state.lost))}{remedy}")
    running = sorted(f"{g.group_id} is {g.state}" for g in state.groups if g.model == name)
    if running:
        notes.append(f"besides what runs already: {', '.join(running)}")
    return notes


def _untried(spec: "ModelSpec", outcome: "Plan | NoPlan") -> list[str]:
    """Why the table of candidates ends where it does."""
    from orchestrator.types import MAX_STAGES, Plan

    if not isinstance(outcome, Plan) or outcome.degraded:
        return []
    largest = max((candidate.s for candidate in outcome.candidates), default=0)
    if largest >= min(MAX_STAGES, spec.max_stages, spec.layers):
        return []
    return [f"  Larger pipelines than s={largest} were not judged: the search ends at the first that is good enough."]


def _in_short(outcome: "Plan | NoPlan") -> str:
    from orchestrator.explain import refusal_text
    from orchestrator.types import Plan

    if not isinstance(outcome, Plan):
        return f"{outcome.model}: no plan. {refusal_text(outcome)}"
    where = ", ".join(f"{stage.node}/{stage.device}" for stage in outcome.stages)
    degraded = " (misses the service level)" if outcome.degraded else ""
    return (
        f"{outcome.model}: s={outcome.s} w={outcome.w} on {where}; first token after"
        f" {seconds(outcome.predicted_ttft_ms)}{degraded}. Why: add --explain"
    )
