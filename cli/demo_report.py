"""The demo's closing report: answers, the plan beside the outcome, the waterfall, the bill beside the engines' word."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import func, select

from cli.step_table import step_table
from cli.waterfall import draw
from registry.db import SessionFactory, read_scope
from registry.models import ColdStart, Group, LedgerEntry, Tenant, Usage
from registry.ops.coldstarts import waterfall
from registry.ops.money import format_dollars, usd

COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens")


class Told(Protocol):
    """An answer as the client saw it."""

    name: str
    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float | None


def summary(sessions: SessionFactory, answers: Sequence[Told], counters: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Everything the demo shows at its end, as lines."""
    return [
        *_heading("Answers"),
        *_answers(answers),
        *_heading("Cold start: prediction and outcome"),
        *_cold_starts(sessions),
        *_heading("Usage and bill, from the SQL ledger"),
        *_bill(sessions),
        *_heading("The same tokens by the engines' own counters (/metrics, since each group was ready)"),
        *_counters(sessions, counters),
    ]


def document(
    sessions: SessionFactory, answers: Iterable[Told], counters: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """The same for a program."""
    with read_scope(sessions) as session:
        starts = session.scalars(select(ColdStart).order_by(ColdStart.requested_at_ms)).all()
        cold_starts = [
            {
                "cold_start_id": start.id,
                "cause": start.cause,
                "predicted_ttft_ms": start.predicted_ttft_ms,
                "requested_at_ms": start.requested_at_ms,
                "ready_at_ms": start.ready_at_ms,
                "first_token_at_ms": start.first_token_at_ms,
            }
            for start in starts
        ]
        cost = session.scalar(select(func.sum(Usage.cost_nusd))) or 0
    return {
        "ok": True,
        "answers": [
            {
                "name": answer.name,
                "text": answer.text,
                "first_token_s": answer.first_token_s,
                "completion_tokens": answer.completion_tokens,
            }
            for answer in answers
        ],
        "cold_starts": cold_starts,
        "billed": _billed(sessions),
        "engine_counters": {group: dict(seen) for group, seen in counters.items()},
        "cost_nusd": int(cost),
        "cost_usd": format_dollars(int(cost)),
    }


def bill_is_right(sessions: SessionFactory, counters: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether the usage rows of every group add up to exactly what its engine counted."""
    return _billed(sessions) == {group: {name: seen[name] for name in COUNTED} for group, seen in counters.items()}


def _heading(text: str) -> list[str]:
    return ["", text, "-" * len(text)]


def _answers(answers: Iterable[Told]) -> list[str]:
    lines = []
    for answer in answers:
        text = " ".join(answer.text.split())
        shown = text if len(text) <= 70 else text[:67] + "..."
        first = "" if answer.first_token_s is None else f"{answer.first_token_s:.2f} s"
        lines.append(f"{answer.name:<15} first token {first:>8}  {answer.completion_tokens:>4} tokens  {shown}")
    return lines


def _cold_starts(sessions: SessionFactory) -> list[str]:
    lines: list[str] = []
    with read_scope(sessions) as session:
        for start in session.scalars(select(ColdStart).order_by(ColdStart.requested_at_ms)):
            lines.append(f"{start.id} ({start.cause}): {_outcome(start)}")
            rows = waterfall(session, start.id).rows
            lines += [f"  {line}" if line else "" for line in [*step_table(rows), "", *draw(rows, 100)]]
            lines.append("")
    return lines[:-1]


def _outcome(start: ColdStart) -> str:
    parts = []
    if start.predicted_ttft_ms is not None:
        parts.append(f"first token predicted after {start.predicted_ttft_ms / 1000:.1f} s")
    if start.first_token_at_ms is not None:
        parts.append(f"came after {(start.first_token_at_ms - start.requested_at_ms) / 1000:.1f} s")
    if start.ready_at_ms is not None:
        parts.append(f"ready after {(start.ready_at_ms - start.requested_at_ms) / 1000:.1f} s")
    return ", ".join(parts)


def _bill(sessions: SessionFactory) -> list[str]:
    lines = [f"{'endpoint':<22}{'lane':<9}{'served by':<12}{'prompt':>7}{'cached':>7}{'output':>7}{'cost':>18}"]
    with read_scope(sessions) as session:
        groups = {group.id: group for group in session.scalars(select(Group))}
        for row in session.scalars(select(Usage).order_by(Usage.started_at_ms)):
            served = "pipeline" if len(groups[row.group_id or ""].stages) > 1 else "standalone"
            lines.append(
                f"{row.endpoint:<22}{row.lane:<9}{served:<12}{row.prompt_tokens:>7}{row.cached_tokens:>7}"
                f"{row.completion_tokens:>7}{usd(row.cost_nusd):>18}"
            )
        total = session.scalar(select(func.sum(Usage.cost_nusd))) or 0
        tenant = session.scalars(select(Tenant).where(Tenant.name == "demo")).one()
        mine = LedgerEntry.tenant_id == tenant.id
        balance = session.scalar(select(func.sum(LedgerEntry.amount_nusd)).where(mine)) or 0
        budget = (
            session.scalar(select(func.sum(LedgerEntry.amount_nusd)).where(mine, LedgerEntry.kind == "top_up")) or 0
        )
    lines.append(f"{'total':<64}{usd(total):>18}")
    lines.append(f"{'budget, and balance after':<46}{usd(budget):>18}{usd(balance):>18}")
    return lines


def _billed(sessions: SessionFactory) -> dict[str, dict[str, int]]:
    with read_scope(sessions) as session:
        rows = session.execute(
            select(
                Usage.group_id,
                func.sum(Usage.prompt_tokens),
                func.sum(Usage.cached_tokens),
                func.sum(Usage.completion_tokens),
            ).group_by(Usage.group_id)
        ).all()
    return {str(group): dict(zip(COUNTED, map(int, sums), strict=True)) for group, *sums in rows}


def _counters(sessions: SessionFactory, counters: Mapping[str, Mapping[str, int]]) -> list[str]:
    billed = _billed(sessions)
    lines = [f"{'group':<34}{'':<10}{'prompt':>8}{'cached':>8}{'output':>8}"]
    for group in sorted(billed.keys() | counters.keys()):
        for label, figures in (("engine", counters.get(group, {})), ("billed", billed.get(group, {}))):
            columns = "".join(f"{figures.get(name, 0):>8}" for name in COUNTED)
            lines.append(f"{group:<34}{label:<10}{columns}")
    lines.append("equal" if bill_is_right(sessions, counters) else "NOT EQUAL")
    return lines
