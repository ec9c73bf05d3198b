"""OTLP over HTTP in JSON with the standard library: for node agent and fleet, which must stay small.

Spans and metrics wait in bounded memory and leave on one background thread. A receiver that is away, slow or rude costs
what waits, counted in `dropped`, and never a sample or a command.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from streams.observe.notes import SpanNote
from streams.observe.trace import (
    Attributes,
    Ids,
    OtelSettings,
    Starting,
    Value,
    formatted,
    new_span_id,
    new_trace_id,
)

MOST: Final = 2048  # spans that wait
BATCH: Final = 512
DELAY_S: Final = 1.0
TIMEOUT_S: Final = 5.0
SCOPE: Final = {"name": "energy-orchestrator"}
INTERNAL: Final = 1
log = logging.getLogger("eo.trace")


def attributes(values: Attributes) -> list[dict[str, Any]]:
    """OTLP's key-value list."""
    return [{"key": key, "value": _any(value)} for key, value in values.items()]


def _any(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


class LightSpan:
    """See streams.observe.trace.Span."""

    __slots__ = ("_attributes", "_done", "_links", "_name", "_parent", "_span_id", "_start_ns", "_trace_id")

    def __init__(
        self,
        name: str,
        parent: tuple[str, str] | None,
        links: Sequence[Ids],
        start_ns: int,
        values: dict[str, Value],
        done: Callable[[dict[str, Any]], None],
    ) -> None:
        self._trace_id, self._parent = (new_trace_id(), "") if parent is None else parent
        self._span_id, self._name, self._start_ns = new_span_id(), name, start_ns
        self._links, self._attributes, self._done = links, values, done

    @property
    def traceparent(self) -> str:
        return formatted(self._trace_id, self._span_id)

    def set(self, name: str, value: Value) -> None:
        self._attributes[name] = value

    def end(self, end_ns: int | None = None) -> None:
        span: dict[str, Any] = {
            "traceId": self._trace_id,
            "spanId": self._span_id,
            "name": self._name,
            "kind": INTERNAL,
            "startTimeUnixNano": str(self._start_ns),
            "endTimeUnixNano": str(time.time_ns() if end_ns is None else end_ns),
            "attributes": attributes(self._attributes),
        }
        if self._parent:
            span["parentSpanId"] = self._parent
        if self._links:
            span["links"] = [{"traceId": trace_id, "spanId": span_id} for trace_id, span_id in self._links]
        self._done(span)


class LightTracer(Starting[LightSpan]):
    """See streams.observe.trace.Tracer; sends metrics too.

    Args:
        settings: where to.
        service: `service.name`, unless OTEL_SERVICE_NAME is set.
        resource: more about this process.
        metrics: () -> OTLP metrics of now, asked once per interval; None = none.
        post: (url, headers, body); replaced in tests.
    """

    def __init__(
        self,
        settings: OtelSettings,
        service: str,
        resource: Mapping[str, Value] | None = None,
        *,
        metrics: Callable[[], list[dict[str, Any]]] | None = None,
        post: Callable[[str, Mapping[str, str], bytes], None] | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings, self._metrics, self._wall_ns = settings, metrics, wall_ns
        self._post = post or post_json
        own: dict[str, Value] = {
            "service.name": settings.service or service,
            "process.pid": os.getpid(),
            **settings.attributes,
        }
        self._resource: dict[str, Value] = {**own, **(resource or {})}
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._ending = threading.Event()
        self._complained = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    def _begin(
        self, name: str, parent: Ids | None, links: list[Ids], start_ns: int | None, values: dict[str, Value]
    ) -> LightSpan:
        begun = self._wall_ns() if start_ns is None else start_ns
        return LightSpan(name, parent, links, begun, values, lambda span: self._keep("", span))

    def relay(self, notes: Iterable[SpanNote], *, service: str, pid: int) -> None:
        """Sends on what another process noted, under its own name."""
        for note in notes:
            span: dict[str, Any] = {
                "traceId": note.trace_id,
                "spanId": note.span_id,
                "parentSpanId": note.parent_id,
                "name": note.name,
                "kind": INTERNAL,
                "startTimeUnixNano": str(note.start_ns),
                "endTimeUnixNano": str(note.end_ns),
                "attributes": attributes(note.attributes),
            }
            if note.error:
                span["status"] = {"code": 2, "message": note.error}
            self._keep(f"{service} {pid}", span)

    def _keep(self, relayed: str, span: dict[str, Any]) -> None:
        if not self._settings.traces:
            return
        if len(self._waiting) >= MOST:
            self.dropped += 1
            return
        self._waiting.append((relayed, span))

    def close(self) -> None:
        """Sends what waits, for at most two time-outs, and ends the thread."""
        self._ending.set()
        self._thread.join(2 * TIMEOUT_S)

    def _run(self) -> None:
        due_s = time.monotonic() + self._settings.metrics_interval_s
        while not self._ending.wait(DELAY_S):
            self._flush()
            if time.monotonic() >= due_s:
                due_s += self._settings.metrics_interval_s
                self._send_metrics()
        self._flush()
        self._send_metrics()

    def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            by_process: dict[str, list[dict[str, Any]]] = {}
            for relayed, span in batch:
                by_process.setdefault(relayed, []).append(span)
            body = {
                "resourceSpans": [
                    {"resource": self._of(relayed), "scopeSpans": [{"scope": SCOPE, "spans": spans}]}
                    for relayed, spans in by_process.items()
                ]
            }
            if not self._send(self._settings.traces, body):
                self.dropped += len(batch)
                return

    def _of(self, relayed: str) -> dict[str, Any]:
        if not relayed:
            return {"attributes": attributes(self._resource)}
        service, pid = relayed.split()
        return {"attributes": attributes({**self._resource, "service.name": service, "process.pid": int(pid)})}

    def _send_metrics(self) -> None:
        if self._metrics is None or not self._settings.metrics:
            return
        try:
            found = self._metrics()
        except Exception:
            log.exception("metrics for OTLP could not be made; the next round tries again")
            return
        if found:
            scope = {"scope": SCOPE, "metrics": found}
            resource = {"resource": self._of(""), "scopeMetrics": [scope]}
            self._send(self._settings.metrics, {"resourceMetrics": [resource]})

    def _send(self, url: str, body: dict[str, Any]) -> bool:
        try:
            self._post(url, self._settings.headers, json.dumps(body, separators=(",", ":"), allow_nan=False).encode())
        except (OSError, ValueError) as error:
            if not self._complained:
                log.warning("OTLP cannot be sent to %s (%s); spans are dropped until it takes them", url, error)
            self._complained = True
            return False
        self._complained = False
        return True


def post_json(url: str, headers: Mapping[str, str], body: bytes) -> None:
    """One POST; raises OSError (also for an answer above 299, and for one that is no HTTP) or ValueError."""
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    request = Request(url, body, {"Content-Type": "application/json", **headers}, method="POST")
    try:
        with urlopen(request, timeout=TIMEOUT_S):
            return  # what a receiver has to say beyond its status is not waited for
    except HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
