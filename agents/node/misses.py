"""Counts an engine's requests and those that missed the SLO, from its histograms. For the guard of the control loop.

A request's own mean gap between tokens is in no engine's metrics: where the mean gap of a whole reading is over the
bound, all requests of that reading count as missed. An engine that tells neither first tokens nor gaps counts nothing,
and the guard stays silent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from models.control.guard import SLO_TBT_MS, SLO_TTFT_MS, MissGuard
from streams.contract.records import EngineReading, Histogram

MOST: Final = 1e9  # requests of one reading: more is no load but nonsense


@dataclass(frozen=True, slots=True)
class Slo:
    """What no request should exceed, in milliseconds: the absolute bound of strategy aggressive."""

    ttft_ms: float = SLO_TTFT_MS
    tbt_ms: float = SLO_TBT_MS


SLO: Final = Slo()


class Misses:
    """One engine's totals and its guard."""

    def __init__(self, slo: Slo, now_s: float) -> None:
        self._slo, self._guard = slo, MissGuard(now_s)
        self._requests = self._missed = 0.0
        self._before: EngineReading | None = None

    def take(self, engine: EngineReading, now_s: float) -> bool:
        """Counts a reading once; whether default clocks must be kept."""
        if self._before is None or engine.ts_ns != self._before.ts_ns:
            before, self._before = self._before, engine
            requests, missed = self._of(engine, before)
            self._requests, self._missed = self._requests + requests, self._missed + missed
        return self._guard.holds(now_s, self._requests, self._missed)

    def left_s(self, now_s: float) -> float:
        """Seconds that a repeated rollback still lasts at least; 0 without one."""
        return self._guard.left_s(now_s)

    @property
    def missed_ratio(self) -> float | None:
        """Share of the last hour's requests; None while too few were counted."""
        return self._guard.missed_ratio

    def _of(self, engine: EngineReading, before: EngineReading | None) -> tuple[float, float]:
        first, gaps = engine.ttft, engine.tbt
        requests = total(first) if first is not None else _finished(engine, before)
        if not 0.0 < requests < MOST:
            return 0.0, 0.0
        count = total(gaps) if gaps is not None else 0.0
        if gaps is not None and count > 0.0 and gaps.sum_ms / count > self._slo.tbt_ms:
            return requests, requests
        return requests, 0.0 if first is None else min(requests, above(first, self._slo.ttft_ms))


def total(histogram: Histogram) -> float:
    """Samples of a histogram."""
    return float(sum(histogram.count))


def _finished(engine: EngineReading, before: EngineReading | None) -> float:
    if before is None or before.requests_total is None or engine.requests_total is None:
        return 0.0
    return float(max(0, engine.requests_total - before.requests_total))


def above(histogram: Histogram, bound_ms: float) -> float:
    """Samples above a bound; in its own bucket they are taken to be spread evenly."""
    place = math.log2(bound_ms) * 2**histogram.scale
    found = 0.0
    for index, count in zip(histogram.index, histogram.count, strict=True):
        found += count * min(1.0, max(0.0, index + 1 - place))
    return found
