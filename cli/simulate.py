"""`hydrant simulate`: what if the requests of a log met another cluster, or another way of deciding?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.command import Command, reporting
from cli.console import Console, fields, table
from cli.errors import Failure
from cli.units import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.simulator.cluster import Cluster
    from orchestrator.simulator.serving import Served
    from orchestrator.simulator.simulation import SimModel

POLICIES = ("hydrant", "hydraserve", "serverlessllm", "serverless-vllm")
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    cls=Command,
    examples=[
        "hydrant usage csv --since 7d --output usage.csv",
        "hydrant simulate --cluster cluster.toml --from-log usage.csv",
        "hydrant simulate --cluster cluster.toml --from-log usage.csv --policy hydraserve",
        "hydrant simulate --cluster cluster.toml --models models.toml --from-log usage.csv --gpu-hour-usd 1.20",
    ],
)
@click.option("--cluster", "cluster_path", type=FILE, required=True, help="Servers, in TOML (docs/simulation.md).")
@click.option("--from-log", "log_path", type=FILE, required=True, help="Requests: what `hydrant usage csv` writes.")
@click.option("--models", "models_path", type=FILE, help="Models, in TOML; the registered ones if absent.")
@click.option("--policy", type=click.Choice(POLICIES), default="hydrant", show_default=True, help="Who decides.")
@click.option(
    "--idle-memory-percent",
    type=click.IntRange(0, 100),
    default=30,
    show_default=True,
    help="Of all device memory, what idle workers may hold beyond their set keep-alives.",
)
@click.option("--gpu-hour-usd", type=click.FloatRange(min=0), help="What an hour of one device costs.")
@reporting
def simulate(
    console: Console,
    cluster_path: Path,
    log_path: Path,
    models_path: Path | None,
    policy: str,
    idle_memory_percent: int,
    gpu_hour_usd: float | None,
) -> None:
    """Simulate a log of requests on a cluster, with the decisions that the controller would make.

    Says how many first tokens would have come within their service level, how late they came, and what it took of the
    devices. Reads; changes nothing.
    """
    from dataclasses import replace

    from cli.cluster_file import FileError, cluster_of, read_cluster
    from cli.usage_log import read_log
    from orchestrator.policies import POLICIES as KNOWN
    from orchestrator.simulator.simulation import ENGINES, Simulation

    engine = ENGINES[policy]
    try:
        cluster = cluster_of(read_cluster(cluster_path), {}, {})
        models, hosted = _models(console, models_path, cluster, engine.style)
        requests, left_out = read_log(log_path, (model.spec.name for model in models), hosted)
    except FileError as error:
        raise Failure(str(error)) from error
    if left_out:
        console.warn(f"left out {left_out} requests for models of hosted providers: nothing is started for them")
    decides = replace(KNOWN[policy], idle_percent=idle_memory_percent)
    simulation = Simulation(cluster, models, engine, decides, requests)
    simulation.run()
    hours = simulation.world.device_ms / 3.6e6
    total = _figures(simulation.served, {model.spec.name: model.spec.slo_ttft_ms for model in models})
    document: dict[str, Any] = {
        "policy": policy,
        "requests": len(requests),
        "requests_left_out": left_out,
        "hours": round(requests[-1].at_ms / 3.6e6, 3),
        **total,
        "cold_starts": len(simulation.cold_starts),
        "gpu_hours": round(hours, 3),
        "cost_usd": None if gpu_hour_usd is None else round(hours * gpu_hour_usd, 2),
        "models": {},
    }
    for model in models:
        mine = [one for one in simulation.served if one.request.model == model.spec.name]
        if mine:
            document["models"][model.spec.name] = _figures(mine, {model.spec.name: model.spec.slo_ttft_ms})
    console.show(document, _lines(document))


def _models(console: Console, path: Path | None, cluster: "Cluster", style: Any) -> "tuple[list[SimModel], set[str]]":
    """The models to simulate; names of models that a provider serves, which cannot be."""
    from cli.cluster_file import models_of, read_models

    if path is not None:
        return list(models_of(read_models(path), cluster, style, in_place=False)), set()
    return _registered(console, cluster, style)


def _registered(console: Console, cluster: "Cluster", style: Any) -> "tuple[list[SimModel], set[str]]":
    """The models of the database, as they would be on that cluster; names of those that a provider serves."""
    from dataclasses import replace

    from sqlalchemy import select

    from cli.cluster_file import USUAL_PROMPT_TOKENS
    from cli.workspace import Workspace
    from orchestrator.simulator.simulation import SimModel
    from orchestrator.simulator.startup import profile
    from orchestrator.types import KindProfile
    from registry.models import Model
    from tasks.spec import model_spec

    with Workspace(console) as here, here.read() as session:
        rows = session.scalars(select(Model).where(Model.deleted_at_ms.is_(None))).all()
        specs = [(model_spec(row), row.keep_alive_s * 1000) for row in rows if row.manifest]
        hosted = set(session.scalars(select(Model.name).where(Model.lane == "hosted")))
    if not specs:
        raise Failure("no model is registered; give --models FILE, or register one: hydrant model register --help")
    found = []
    for spec, keep_alive_ms in specs:
        known = spec.profile
        tpot, prefill = known.tpot_ms or 50, known.prefill_ms or 500
        kinds = (
            KindProfile(kind, profile(style, times, spec.weights_bytes, tpot, prefill))
            for kind, times in cluster.times.items()
        )
        there = replace(spec, profile=replace(known, tpot_ms=tpot, prefill_ms=prefill), profiles=tuple(kinds))
        found.append(SimModel(there, spec.name, keep_alive_ms, max(1, prefill * 1000 // USUAL_PROMPT_TOKENS)))
    return found, hosted


def _figures(served: "Sequence[Served]", slo_ms: dict[str, int]) -> dict[str, Any]:
    """Attainment and cold share in percent, first tokens in ms."""
    ttft = sorted(one.ttft_ms for one in served if one.ttft_ms is not None)
    met = sum(one.ttft_ms is not None and one.ttft_ms <= slo_ms[one.request.model] for one in served)
    return {
        "attainment": round(100 * met / len(served), 1),
        "ttft_ms": {f"p{share}": ttft[(len(ttft) - 1) * share // 100] for share in (50, 95, 99)} if ttft else {},
        "cold_share": round(100 * sum(one.cold for one in served) / len(served), 1),
        "requests": len(served),
    }


def _lines(document: dict[str, Any]) -> list[str]:
    cost = "" if document["cost_usd"] is None else f", ${document['cost_usd']:.2f}"
    lines = fields(
        [
            ("policy", document["policy"]),
            ("requests", f"{document['requests']} in {document['hours']:.2f} h"),
            ("first tokens within the service level", f"{document['attainment']:.1f} %"),
            ("first token, median, 95 %, 99 %", ", ".join(f"{ms / 1000:.2f} s" for ms in document["ttft_ms"].values())),
            ("requests that met no warm worker", f"{document['cold_share']:.1f} %"),
            ("cold starts", document["cold_starts"]),
            ("devices times hours", f"{document['gpu_hours']:.2f}{cost}"),
        ]
    )
    rows = [
        [name, one["requests"], f"{one['attainment']:.1f}", f"{one['cold_share']:.1f}",
         *(seconds(ms) for ms in one["ttft_ms"].values())]
        for name, one in sorted(document["models"].items(), key=lambda item: item[1]["attainment"])
    ]  # fmt: skip
    headings = ["model", "requests", "within %", "cold %", "median", "95 %", "99 %"]
    return [*lines, "", *table(headings, rows, right="0111111")]
