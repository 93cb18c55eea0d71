"""A cold start as OpenTelemetry spans, told once it is over, from SQL alone. Off unless an exporter is named.

It is a child of the span of a request that waited for it, so one trace leads from the gateway to each stage's fetch and
load. Told afterwards, because no process lives through all of it: a controller that dies in the middle loses none.
"""

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from registry.models import ColdStart
from registry.ops.coldstarts import waterfall
from registry.spans import span_provider

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NS_PER_MS = 1_000_000


@cache
def provider() -> "TracerProvider | None":
    """Where this process' spans go; None where nobody wants any."""
    return span_provider("hydrant-controller")


def tell(to: "TracerProvider", session: Session, start: ColdStart) -> None:
    """Emit a cold start that is over: its span, and within it one for every step of every stage."""
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
    for row in rows:
        if row.end_ms is not None:
            from_ns = (begin + row.start_ms) * _NS_PER_MS
            step = tracer.start_span(row.step, within, attributes={"hydrant.where": row.label}, start_time=from_ns)
            step.end((begin + row.end_ms) * _NS_PER_MS)
    if start.failed_at_ms is not None:
        span.set_status(StatusCode.ERROR, start.reason)
    span.end(max(over, begin + last) * _NS_PER_MS)
