"""`hydrant coldstart`: starts of models from zero, predicted and real, each drawn from SQL alone."""

import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from cli.command import Group, reporting
from cli.console import Console, fields, table
from cli.errors import Failure
from cli.step_table import step_table
from cli.units import gpu_seconds, moment, seconds
from cli.waterfall import draw

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.ops.coldstarts import Waterfall, WaterfallRow
    from registry.ops.cost_queries import StartCost


@click.group(cls=Group, examples=["hydrant coldstart list", "hydrant coldstart show qwen3-8b    its latest one"])
def coldstart() -> None:
    """Cold starts: what the plan predicted, what happened, and where the time went."""


@coldstart.command("list", examples=["hydrant coldstart list", "hydrant coldstart list --model qwen3-8b --limit 10"])
@click.option("--model", help="Only this model's.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@reporting
def list_(console: Console, model: str | None, limit: int) -> None:
    """The latest cold starts."""
    from cli.workspace import Workspace
    from registry.documents.cluster import cold_start_document
    from registry.ops import coldstarts, models

    with Workspace(console) as here, here.read() as session:
        model_id = models.resolve_name(session, model).id if model is not None else None
        found = coldstarts.list_cold_starts(session, model_id=model_id, limit=limit)
        documents = [cold_start_document(row) for row in found]
    rows = [
        (
            d["cold_start_id"],
            moment(d["requested_at_ms"]),
            d["model"],
            d["cause"],
            d["stages"],
            seconds(d["predicted_ttft_ms"]),
            seconds(d["ready_after_ms"]),
            seconds(d["first_token_after_ms"]),
            d["state"],
        )
        for d in documents
    ]
    headings = ("ID", "ASKED FOR (UTC)", "MODEL", "CAUSE", "STAGES", "PREDICTED", "READY", "FIRST TOKEN", "STATE")
    none = ["no cold start yet; the first request for a model makes one, and so does: hydrant model warm NAME"]
    console.show({"cold_starts": documents}, table(headings, rows, right="000011110") if rows else none)


@coldstart.command(examples=["hydrant coldstart show cst_01h...", "hydrant coldstart show qwen3-8b --width 120"])
@click.argument("which")
@click.option("--width", type=click.IntRange(40, 400), help="Columns of the drawing; the terminal's if absent.")
@reporting
def show(console: Console, which: str, width: int | None) -> None:
    """One cold start as a waterfall. WHICH is an id (cst_...) or a model, whose latest one is shown."""
    from cli.workspace import Workspace
    from registry.documents.cluster import cold_start_document
    from registry.documents.costs import start_cost_document
    from registry.ops.coldstarts import waterfall
    from registry.ops.cost_queries import start_cost

    with Workspace(console) as here, here.read() as session:
        found = waterfall(session, _find(session, which))
        cost = start_cost(session, found.cold_start.id)
        document = cold_start_document(found.cold_start)
    lines = fields(
        [
            ("cold start", document["cold_start_id"]),
            ("model", document["model"]),
            ("cause", document["cause"]),
            ("asked for (UTC)", moment(document["requested_at_ms"])),
            ("plan", f"s={document['stages']}, first token predicted after {seconds(document['predicted_ttft_ms'])}"),
            ("ready after", seconds(document["ready_after_ms"])),
            ("first token after", seconds(document["first_token_after_ms"])),
            ("state", document["state"]),
            *([("reason", document["reason"])] if document["reason"] else []),
            *_cost_fields(cost),
        ]
    )
    shown = drawable(found)
    drawing = [*step_table(shown), "", *draw(shown, width or shutil.get_terminal_size().columns)] if shown else []
    bars = [asdict(row) for row in found.rows]
    shares = _share_table(cost)
    console.show(
        {"cold_start": document, "cost": None if cost is None else start_cost_document(cost), "waterfall": bars},
        [*lines, *(["", *shares] if shares else []), "", *(drawing or ["nothing has happened yet"])],
    )


@coldstart.command(examples=["hydrant coldstart learnt", "hydrant coldstart learnt --model qwen3-8b --json"])
@click.option("--model", help="Only this model's.")
@reporting
def learnt(console: Console, model: str | None) -> None:
    """What starts have really taken, by which the next ones are predicted, and how wrong predictions were.

    EACH TOKEN: of a worker that serves one request, and what each further one beside it adds.
    """
    from cli.workspace import Workspace
    from registry.ops import calibrations, models

    with Workspace(console) as here, here.read() as session:
        model_id = models.resolve_name(session, model).id if model is not None else None
        documents = [asdict(row) for row in calibrations.list_learnt(session, model_id)]
    told = ("runtime_floor_ms", "per_stage_floor_ms", "tail_ms", "plain_start_ms", "prefill_ms")
    rows = [
        (
            d["kind"],
            d["model"] or "(all)",
            d["starts"],
            *(seconds(d["fields"].get(field)) for field in told),
            _pace(d["fields"]),
            "-" if d["error_permille"] is None else f"{d['error_permille'] / 10:.1f} %",
        )
        for d in documents
    ]
    headings = (
        *("DEVICE", "MODEL", "STARTS", "RUNTIME", "EACH STAGE", "AFTER FETCH", "WITHOUT WARM"),
        *("PROMPT", "EACH TOKEN", "MEDIAN ERROR"),
    )
    none = ["nothing yet: a start is looked at when its first token has been told, or a minute after it was ready"]
    console.show({"learnt": documents}, table(headings, rows, right="0011111111") if rows else none)


def _pace(fields: dict[str, Any]) -> str:
    """Time per token of a worker that serves one request, and what each further one adds."""
    if "tpot_ms" not in fields:
        return "-"
    more = fields.get("tpot_batch_us", 0) / 1000
    return f"{fields['tpot_ms']} ms" + (f" + {more:.1f}" if more >= 0.1 else "")


def _cost_fields(cost: "StartCost | None") -> list[tuple[str, object]]:
    """What the start has cost in device time, and its service after it."""
    from registry.ops.money import usd

    if cost is None or cost.startup_gpu_us is None:
        return []
    waited = {None: "not known yet", 0: "nobody: the model's alone"}.get(
        cost.waited, f"{cost.waited} request{'' if cost.waited == 1 else 's'}"
    )
    lines: list[tuple[str, object]] = [
        ("start cost", f"{gpu_seconds(cost.startup_gpu_us)}, {usd(cost.startup_nusd or 0)}"),
        ("waited for it", waited),
    ]
    if cost.busy_gpu_us is not None:
        lines.append(("served, idle", f"{gpu_seconds(cost.busy_gpu_us)}, {gpu_seconds(cost.idle_gpu_us)}"))
    return lines


def _share_table(cost: "StartCost | None") -> list[str]:
    from registry.ops.money import usd

    if cost is None or not cost.shares:
        return []
    rows = [(s.tenant, s.requests, gpu_seconds(s.gpu_us), usd(s.cost_nusd), s.charged) for s in cost.shares]
    return table(("TENANT", "WAITED", "SHARE", "COST", "CHARGED"), rows, right="011.")


def drawable(found: "Waterfall") -> "list[WaterfallRow]":
    """The rows to draw: in a start that is over, what has not ended never will, and is drawn as a moment."""
    if found.cold_start.ready_at_ms is None and found.cold_start.failed_at_ms is None:
        return found.rows
    return [replace(row, end_ms=row.start_ms) if row.end_ms is None else row for row in found.rows]


def _find(session: "Session", which: str) -> str:
    from registry.ops import coldstarts, models

    if which.startswith("cst_"):
        return which
    row = models.resolve_name(session, which)
    latest = coldstarts.list_cold_starts(session, model_id=row.id, limit=1)
    if not latest:
        raise Failure(f"{row.name} was never started; start it: hydrant model warm {row.name}", "which")
    return latest[0].id
