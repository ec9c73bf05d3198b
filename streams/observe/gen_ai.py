"""Serving engines' latencies as OTLP histograms under OpenTelemetry's `gen_ai.server.*` names, in seconds. No I/O.

A record holds what happened since the record before; OTLP wants what happened since the process began, so each record
is added up here. Our buckets are 2.2 % wide and the conventions' are few: a count goes where its bucket's middle lies.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, Final

from streams.contract.records import EngineReading, Histogram, NodeTelemetry
from streams.observe.otlp_json import attributes

CUMULATIVE: Final = 2
MOST_ENGINES: Final = 512  # series of one process; more is no node and no fleet
OTHER: Final = "_OTHER"
# metric -> (our field, the bounds in seconds that the conventions advise)
METRICS: Final[dict[str, tuple[str, tuple[float, ...]]]] = {
    "gen_ai.server.time_to_first_token": (
        "ttft",
        (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    ),
    "gen_ai.server.time_per_output_token": (
        "tbt",
        (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    ),
    "gen_ai.server.request.duration": (
        "e2e",
        (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    ),
}


@dataclass(slots=True)
class _Course:
    """One engine's histogram since the process began."""

    who: dict[str, str]
    count: list[int]
    sum_s: float = 0.0
    ts_ns: int = 0
    start_ns: int = 0


@dataclass(slots=True)
class EngineLatencies:
    """Adds up the engines' histograms of a process' nodes; `add` and `metrics` may be called from different threads."""

    _found: dict[tuple[str, str, str], _Course] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, record: NodeTelemetry) -> None:
        """One record, each once."""
        if not record.engines:
            return
        with self._lock:
            for engine in record.engines:
                for metric, (name, bounds) in METRICS.items():
                    histogram: Histogram | None = getattr(engine, name)
                    if histogram is not None:
                        self._add(metric, bounds, record, engine, histogram)

    def _add(
        self, metric: str, bounds: tuple[float, ...], record: NodeTelemetry, engine: EngineReading, found: Histogram
    ) -> None:
        key = (metric, record.node, engine.engine)
        course = self._found.get(key)
        if course is None:
            if len(self._found) >= MOST_ENGINES * len(METRICS):
                return
            course = _Course(_who(record, engine), [0] * (len(bounds) + 1), start_ns=record.ts_ns)
            self._found[key] = course
        steps = float(1 << found.scale)
        for index, count in zip(found.index, found.count, strict=True):
            power = min(max((index + 0.5) / steps, -1000.0), 1000.0)  # beyond is no duration: the first or last place
            course.count[bisect_left(bounds, 2.0**power * 1e-3)] += count
        course.sum_s += found.sum_ms * 1e-3
        course.ts_ns = record.ts_ns

    def metrics(self) -> list[dict[str, Any]]:
        """OTLP metrics of everything that was added."""
        points: dict[str, list[dict[str, Any]]] = {}
        with self._lock:
            for (metric, _, _), course in self._found.items():
                points.setdefault(metric, []).append(_point(course, METRICS[metric][1]))
        return [
            {"name": name, "unit": "s", "histogram": {"aggregationTemporality": CUMULATIVE, "dataPoints": found}}
            for name, found in points.items()
        ]


def _point(course: _Course, bounds: tuple[float, ...]) -> dict[str, Any]:
    return {
        "attributes": attributes(course.who),
        "startTimeUnixNano": str(course.start_ns),
        "timeUnixNano": str(course.ts_ns),
        "count": str(sum(course.count)),
        "sum": course.sum_s,
        "bucketCounts": [str(count) for count in course.count],
        "explicitBounds": list(bounds),
    }


def _who(record: NodeTelemetry, engine: EngineReading) -> dict[str, str]:
    """An engine's text does not tell chat from completion, so the operation is "_OTHER", never a guess."""
    model = engine.stack.removesuffix(f"/{engine.kind}")
    return {
        "gen_ai.operation.name": OTHER,
        "gen_ai.provider.name": engine.kind,
        "gen_ai.request.model": model,
        "host.name": record.node,
        "eo.engine": engine.engine,
        "eo.workload": engine.workload,
        "eo.quality": record.quality,
    }
