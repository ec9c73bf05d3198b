"""Tracing without a library: W3C trace context, what a tracer is, the standard OTEL_ settings. Nothing is sent here.

Off is the default and costs nothing: no endpoint, no tracer, no import of an exporter. A header from Kafka is anybody's
text: what is no valid, sampled traceparent counts as none.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

HEADER: Final = "traceparent"
EVERY: Final = 60  # of a node's samples one begins a trace: once a minute at 1 Hz
_FORM: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
Value = str | int | float | bool
Attributes = Mapping[str, Value]
Headers = Iterable[tuple[str, bytes | None]] | Iterable[tuple[str, bytes]] | None


class TracingError(ValueError):
    """A setting of tracing that cannot work; the text says what to set."""


class Span(Protocol):
    """One running span."""

    @property
    def traceparent(self) -> str:
        """What a child needs to know, in the form of the header."""
        ...

    def set(self, name: str, value: Value) -> None: ...

    def end(self, end_ns: int | None = None) -> None: ...


Ids = tuple[str, str]  # trace id and span id in hex
S = TypeVar("S", bound=Span)


class Tracer(Protocol):
    """Makes spans and sends them in the background; never blocks and never raises because of a receiver."""

    def start(
        self,
        name: str,
        *,
        parent: str | None = None,
        links: Sequence[str] = (),
        start_ns: int | None = None,
        attributes: Attributes | None = None,
    ) -> Span: ...

    def close(self) -> None: ...


class Starting(ABC, Generic[S]):
    """What both tracers do alike: contexts are read and told once, here; a parent that is none begins a new trace."""

    def start(
        self,
        name: str,
        *,
        parent: str | None = None,
        links: Sequence[str] = (),
        start_ns: int | None = None,
        attributes: Attributes | None = None,
    ) -> S:
        above = None if parent is None else parsed(parent)
        beside = [found for text in links if (found := parsed(text)) is not None]
        return self._begin(name, above, beside, start_ns, dict(attributes or {}))

    @abstractmethod
    def _begin(
        self, name: str, parent: Ids | None, links: list[Ids], start_ns: int | None, values: dict[str, Value]
    ) -> S: ...


class Traceable(Protocol):
    """A Kafka message as far as tracing looks at it."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


def parsed(traceparent: str) -> Ids | None:
    """(trace id, span id) in hex of a valid and sampled traceparent, else None."""
    match = _FORM.fullmatch(traceparent)
    if match is None:
        return None
    trace_id, span_id, flags = match.groups()
    if trace_id == "0" * 32 or span_id == "0" * 16 or not int(flags, 16) & 1:
        return None
    return trace_id, span_id


def formatted(trace_id: str, span_id: str) -> str:
    return f"00-{trace_id}-{span_id}-01"


def new_trace_id() -> str:
    return os.urandom(16).hex()


def new_span_id() -> str:
    return os.urandom(8).hex()


def of_headers(headers: Headers) -> str | None:
    """The traceparent of a Kafka message; None without a valid, sampled one."""
    for name, value in headers or ():
        if name == HEADER and value is not None and len(value) < 64:
            text = value.decode("ascii", "replace")
            return text if parsed(text) is not None else None
    return None


@dataclass(slots=True)
class Handoff:
    """Trace contexts on their way from one place of a process to another, by the identity of what they belong to.

    Bounded: what is never fetched (an envelope that was replaced, a record dropped) makes room for the next.
    """

    most: int = 1024
    held: dict[object, str] = field(default_factory=dict)

    def put(self, key: object, traceparent: str) -> None:
        while len(self.held) >= self.most:
            self.held.pop(next(iter(self.held)), None)
        self.held[key] = traceparent

    def take(self, key: object) -> str | None:
        return self.held.pop(key, None) if self.held else None

    def get(self, key: object) -> str | None:
        return self.held.get(key) if self.held else None


@dataclass(slots=True)
class JobTracing:
    """What a stream job traces with."""

    tracer: Tracer
    handoff: Handoff = field(default_factory=Handoff)


@contextmanager
def traced(tracing: JobTracing | None, name: str, records: Sequence[Traceable]) -> Iterator[None]:
    """A span around the work on a batch for each traced record in it; nothing at all when tracing is off."""
    spans = []
    if tracing is not None:
        parents = [context for record in records if (context := of_headers(record.headers)) is not None]
        spans = [tracing.tracer.start(name, parent=parent) for parent in parents]
    try:
        yield
    finally:
        for span in spans:
            span.end()


@dataclass(frozen=True, slots=True)
class OtelSettings:
    """OpenTelemetry's own environment variables, as far as they are read here. "" = that signal is off."""

    traces: str = ""
    metrics: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    service: str = ""
    every: int = EVERY
    metrics_interval_s: float = 60.0

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> OtelSettings:
        """Raises TracingError naming the variable, its value and what it takes."""
        if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return cls()
        traces, metrics = _endpoint(env, "traces"), _endpoint(env, "metrics")
        if not traces and not metrics:
            return cls()
        protocol = env.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        if not protocol.startswith("http/"):
            raise TracingError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; only OTLP over HTTP is spoken here, so set "
                "http/protobuf and an endpoint with the collector's HTTP port (4318)"
            )
        return cls(
            traces=traces,
            metrics=metrics,
            headers=_pairs(env.get("OTEL_EXPORTER_OTLP_HEADERS", "")),
            attributes=_pairs(env.get("OTEL_RESOURCE_ATTRIBUTES", "")),
            service=env.get("OTEL_SERVICE_NAME", ""),
            every=_number(env, "EO_TRACE_EVERY", EVERY, 1, 1_000_000),
            metrics_interval_s=_number(env, "OTEL_METRIC_EXPORT_INTERVAL", 60_000, 1, 3_600_000) / 1000,
        )


def _endpoint(env: Mapping[str, str], signal: str) -> str:
    upper = signal.upper()
    if env.get(f"OTEL_{upper}_EXPORTER", "otlp").lower() != "otlp":
        return ""
    name = f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT"
    own, shared = env.get(name, ""), env.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    url = own or (f"{shared.rstrip('/')}/v1/{signal}" if shared else "")
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        shown = name if own else "OTEL_EXPORTER_OTLP_ENDPOINT"
        raise TracingError(f"{shown} is {own or shared!r}; give http://host:4318 or https://host:4318")
    return url


def _pairs(text: str) -> dict[str, str]:
    """`a=b,c=d`, percent-decoded, as OpenTelemetry writes it; parts without `=` say nothing."""
    parts = (part.partition("=") for part in text.split(",") if "=" in part)
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in parts if name.strip()}


def _number(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or not low <= int(text) <= high:
        raise TracingError(f"{name} is {text!r}; give a whole number from {low} to {high}")
    return int(text)
