"""Tracing of the stream jobs through opentelemetry-sdk; imported only when an OTLP endpoint is set."""

from __future__ import annotations

import logging
import os
import threading
from typing import Final

from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from streams.observe.trace import Ids, OtelSettings, Starting, Value, formatted

CLOSE_S: Final = 3.0
TIMEOUT_S: Final = 3.0


class SdkSpan:
    """See streams.observe.trace.Span."""

    __slots__ = ("_span",)

    def __init__(self, span: otel.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        at = self._span.get_span_context()
        return formatted(f"{at.trace_id:032x}", f"{at.span_id:016x}")

    def set(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def end(self, end_ns: int | None = None) -> None:
        self._span.end(end_ns)


class SdkTracer(Starting[SdkSpan]):
    """See streams.observe.trace.Tracer."""

    def __init__(self, settings: OtelSettings, service: str) -> None:
        own: dict[str, Value] = {
            "service.name": settings.service or service,
            "process.pid": os.getpid(),
            **settings.attributes,
        }
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        # It warns at each of its tries; one line for a batch that is given up is enough.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
        exporter = OTLPSpanExporter(endpoint=settings.traces, headers=dict(settings.headers) or None, timeout=TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("energy-orchestrator")

    def _begin(
        self, name: str, parent: Ids | None, links: list[Ids], start_ns: int | None, values: dict[str, Value]
    ) -> SdkSpan:
        context = None if parent is None else otel.set_span_in_context(otel.NonRecordingSpan(_context(parent)))
        linked = [otel.Link(_context(one)) for one in links]
        return SdkSpan(
            self._tracer.start_span(name, context, links=linked, start_time=start_ns, attributes=dict(values))
        )

    def close(self) -> None:
        """Sends what waits, and gives up after three seconds: a collector that hangs must not hold a worker's end."""
        ending = threading.Thread(target=self._provider.shutdown, name="otlp-end", daemon=True)
        ending.start()
        ending.join(CLOSE_S)


def _context(found: Ids) -> otel.SpanContext:
    sampled = otel.TraceFlags(otel.TraceFlags.SAMPLED)
    return otel.SpanContext(int(found[0], 16), int(found[1], 16), is_remote=True, trace_flags=sampled)
