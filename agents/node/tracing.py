"""What a node agent traces: one sample in N from its reading to the command that it led to. None of it exists when off.

Contexts travel beside the data, never in it: the spool keeps records as they are, so a sample that waits over a restart
goes on without its trace. The capper's own spans come back with its answer and are sent on under its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from agents.node.publisher import TELEMETRY_HEADERS, applied_headers
from agents.node.spool import SpoolRecord
from streams.contract import codec
from streams.contract.codec import Headers
from streams.contract.errors import ContractError
from streams.contract.records import NodeTelemetry, PowerApplied
from streams.observe.gen_ai import EngineLatencies
from streams.observe.notes import SpanNote
from streams.observe.otlp_json import LightTracer
from streams.observe.trace import HEADER, Handoff, OtelSettings, Span, of_headers

CAPPER: Final = "eo-capper"


class NodeTracing:
    """Tracing of the nodes of one process. The command reader's thread calls `arrived` only."""

    def __init__(self, tracer: LightTracer, every: int, latencies: EngineLatencies | None = None) -> None:
        self._tracer, self._every, self._latencies = tracer, every, latencies
        self._counts: dict[str, int] = {}
        self._samples = Handoff()  # number in the spool -> context
        self._commands = Handoff()  # raw bytes -> context
        self._acks = Handoff()  # (capper run, ack number) -> context

    # --- sample -> telemetry -----------------------------------------------------------------------------------

    def sample(self, node: str, now_ns: int) -> Span | None:
        """A span around this sample, for one in N of a node's."""
        count = self._counts.get(node, 0)
        self._counts[node] = count + 1
        if count % self._every:
            return None
        return self._tracer.start("agent.sample", start_ns=now_ns, attributes={"host.name": node})

    def observe(self, record: NodeTelemetry) -> None:
        """Every record, traced or not: what its engines counted belongs to their histograms."""
        if self._latencies is not None:
            self._latencies.add(record)

    def sampled(self, span: Span, number: int, record: NodeTelemetry) -> None:
        """The record is in the spool under this number."""
        span.set("eo.seq", record.seq)
        span.set("eo.sources", ",".join(record.source))
        span.end()
        self._samples.put(number, span.traceparent)

    def telemetry_headers(self, record: SpoolRecord) -> Headers:
        context = self._samples.get(record.number)
        return TELEMETRY_HEADERS if context is None else [*TELEMETRY_HEADERS, (HEADER, context.encode())]

    # --- command -> acknowledgement ----------------------------------------------------------------------------

    def arrived(self, raw: bytes, headers: Sequence[tuple[str, bytes | None]] | None) -> None:
        """A command as it was read, before anybody has verified it."""
        context = of_headers(headers)
        if context is not None:
            self._commands.put(raw, context)

    def receive(self, node: str, raw: bytes, received_ns: int) -> Span | None:
        """A span around the handling of a traced command."""
        context = self._commands.take(raw)
        if context is None:
            return None
        attributes = {"host.name": node, "messaging.system": "kafka"}
        return self._tracer.start("node.receive", parent=context, start_ns=received_ns, attributes=attributes)

    def answered(self, span: Span, ack: PowerApplied, notes: Iterable[SpanNote], pid: int) -> None:
        """The command's answer, and what the capper noted while it gave it."""
        self._tracer.relay(notes, service=CAPPER, pid=pid)
        span.set("eo.epoch", ack.epoch)
        span.set("eo.seq", ack.seq)
        span.set("eo.status", ",".join(sorted(set(ack.gpu.status))))
        span.end()
        self._acks.put((ack.capper_id, ack.ack_seq), span.traceparent)

    def applied_headers(self, record: SpoolRecord) -> Headers:
        plain = applied_headers(record)
        if not self._acks.held:
            return plain
        try:
            ack = codec.decode(PowerApplied, record.value)
        except ContractError:
            return plain
        context = self._acks.get((ack.capper_id, ack.ack_seq))
        return plain if context is None else [*plain, (HEADER, context.encode())]

    def close(self) -> None:
        """Sends what waits."""
        self._tracer.close()


def make(
    service: str, settings: OtelSettings, *, records: Callable[[], Iterable[NodeTelemetry | None]], now_ns: int
) -> NodeTracing | None:
    """Tracing and OTLP metrics of this process as the OTEL_ environment asks for; None = off."""
    if not settings.traces and not settings.metrics:
        return None

    latencies = EngineLatencies() if settings.metrics else None

    def metrics() -> list[dict[str, Any]]:
        from streams.observe import hw

        found = hw.metrics([record for record in records() if record is not None], now_ns)
        return found if latencies is None else [*found, *latencies.metrics()]

    tracer = LightTracer(settings, service, {"process.pid": os.getpid()}, metrics=metrics)
    return NodeTracing(tracer, settings.every, latencies)
