"""Where OpenTelemetry spans of a process go: the settings are OpenTelemetry's own environment variables."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORT_SECONDS = 5


def span_provider(service: str) -> "TracerProvider | None":
    """Sends spans of `service` by a thread of the SDK, over HTTP; None where no endpoint is set: nobody wants any."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    # Imported only here: the SDK takes as much time and memory to load as the rest of a gateway.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_SECONDS)))
    return provider
