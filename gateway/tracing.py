"""OpenTelemetry spans of requests: one for each, with the waits and the tries within. Off unless an exporter is named.

The settings are OpenTelemetry's own: with OTEL_EXPORTER_OTLP_ENDPOINT (or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) set, a
thread of the SDK sends spans there. A caller's `traceparent` is taken up, and workers are given ours. No prompt,
answer, key or header is ever an attribute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from registry.spans import span_provider

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from gateway.clients.reply import Scope


class Trace:
    """The span of one request. `traceparent` is its W3C form, for whatever is done on its behalf elsewhere."""

    def __init__(self, tracer: Tracer, name: str, context: Context, attributes: Mapping[str, Any]) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        self._tracer = tracer
        self._span = tracer.start_span(name, context, SpanKind.SERVER, attributes)
        self._context = set_span_in_context(self._span)
        self.traceparent = _traceparent(self._span)

    def note(self, **attributes: str | int) -> None:
        """Sets attributes of the request's span; `http_status` becomes `hydrant.http_status`."""
        self._span.set_attributes({f"hydrant.{name}": value for name, value in attributes.items()})

    @contextmanager
    def step(self, name: str) -> Iterator[str]:
        """A span within the request's; gives its `traceparent`. What is raised inside marks it as failed, by type."""
        span = self._tracer.start_span(name, self._context)
        try:
            yield _traceparent(span)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            span.end()

    def end(self, status: int) -> None:
        """The request was answered with this status (0: the client had left)."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """Where spans go; `begin` gives None when nobody wants any."""

    def __init__(self) -> None:
        self._provider = span_provider("hydrant-gateway")

    def begin(self, scope: Scope, request_id: str) -> Trace | None:
        """The span of a request that has just come, a child of its caller's if it says so."""
        if self._provider is None:
            return None
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        context = TraceContextTextMapPropagator().extract(carrier)
        attributes = {"http.request.method": scope["method"], "hydrant.request_id": request_id}
        return Trace(self._provider.get_tracer("hydrant.gateway"), f"{scope['method']} inference", context, attributes)

    def close(self) -> None:
        """Sends what is left, for a bounded time."""
        if self._provider is not None:
            self._provider.shutdown()


_NOTHING = nullcontext()


def step(trace: Trace | None, name: str) -> Any:
    """`trace.step(name)`, or nothing where there is no trace: then it gives None."""
    return _NOTHING if trace is None else trace.step(name)


def _traceparent(span: Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
