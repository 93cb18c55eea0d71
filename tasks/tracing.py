"""A cold start as OpenTelemetry spans, told once it is over, from SQL alone. Off unless an exporter is named.

It is a child of the span of a request that waited for it, so one trace leads from the gateway to each stage on its
node, and within that to its fetch, fork, load and readiness. Why nodes send none: docs/adr/0015-spans-from-sql.md.
"""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from registry.models import ColdStart, Device, Group, Stage
from registry.ops.coldstarts import WaterfallRow, waterfall
from registry.spans import span_provider

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

_NS_PER_MS = 1_000_000


@cache
def provider() -> "TracerProvider | None":
    """Where this process' spans go; None where nobody wants any."""
    return span_provider("hydrant-controller")


def tell(to: "TracerProvider", session: Session, start: ColdStart) -> None:
    """Emit a cold start that is over: its span; within it one for each stage, and within that one for each step."""
    from opentelemetry.trace import StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = to.get_tracer("hydrant.controller")
    rows = waterfall(session, start.id).rows
    begin = start.requested_at_ms
    last = max((row.end_ms or row.start_ms for row in rows), default=0)
    over = start.first_token_at_ms or start.ready_at_ms or start.failed_at_ms or begin
    attributes: dict[str, str | int] = {
        "hydrant.cold_start": start.id,
        "hydrant.model": start.model.name,
        "hydrant.cause": start.cause,
    }
    if start.predicted_ttft_ms is not None:
        attributes["hydrant.predicted_ttft_ms"] = start.predicted_ttft_ms
    carrier = {} if start.traceparent is None else {"traceparent": start.traceparent}
    context = TraceContextTextMapPropagator().extract(carrier)
    span = tracer.start_span("cold start", context, attributes=attributes, start_time=begin * _NS_PER_MS)
    within = set_span_in_context(span)
    stages = _stages(session, start)
    _tell_steps(tracer, begin, (row for row in rows if row.stage_id not in stages), within)
    for stage_id, told in stages.items():
        mine = [row for row in rows if row.stage_id == stage_id and row.end_ms is not None]
        if not mine:
            continue
        first = begin + min(row.start_ms for row in mine)
        of_stage = tracer.start_span("stage", within, attributes=told, start_time=first * _NS_PER_MS)
        _tell_steps(tracer, begin, mine, set_span_in_context(of_stage, within))
        of_stage.end((begin + max(row.end_ms or row.start_ms for row in mine)) * _NS_PER_MS)
    if start.failed_at_ms is not None:
        span.set_status(StatusCode.ERROR, start.reason)
    span.end(max(over, begin + last) * _NS_PER_MS)


def _tell_steps(tracer: "Tracer", begin_ms: int, rows: Iterable[WaterfallRow], within: "Context") -> None:
    for row in rows:
        if row.end_ms is not None:
            step = tracer.start_span(row.step, within, start_time=(begin_ms + row.start_ms) * _NS_PER_MS)
            step.end((begin_ms + row.end_ms) * _NS_PER_MS)


def _stages(session: Session, start: ColdStart) -> dict[str, dict[str, str | int]]:
    """The stages of a start by rank, each with its attributes. Bytes are as they cross the link."""
    on = and_(Device.node_name == Stage.node_name, Device.idx == Stage.device_idx)
    query = (
        select(Stage, Device)
        .join(Group, Group.id == Stage.group_id)
        .outerjoin(Device, on)
        .where(Group.cold_start_id == start.id)
        .order_by(Group.created_at_ms, Stage.rank)
    )
    return {
        stage.id: {
            "hydrant.group": stage.group_id,
            "hydrant.node": stage.node_name,
            "hydrant.device": stage.device_idx,
            "hydrant.device_kind": "" if device is None else device.name or device.kind,
            "hydrant.rank": stage.rank,
            "hydrant.first_layer": stage.first_layer,
            "hydrant.layers": stage.layer_count,
            "hydrant.bytes": stage.bytes_total,
            "hydrant.bytes_to_fetch": stage.bytes_to_fetch,
            "hydrant.bytes_fetched": stage.bytes_fetched,
        }
        for stage, device in session.execute(query)
    }
