"""Latency of the two groups: rolling pooled histograms per stack and workload, and the targets that follow from them.

The hold-out says what the load costs at default clocks at this hour; targets are its p99 times the strategy's bound.
Until enough hold-out samples exist there is no target, and without a target nothing is granted.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from models.policy import guard
from models.policy.strategies import METRICS, Metric, Strategy
from streams.contract import histogram
from streams.contract.records import EngineReading, Histogram, LatencyTarget

Group = Literal["controlled", "holdout"]
SLICE_S: Final = 5.0
BUCKETS_PER_OCTAVE: Final = 32  # scale 5
Q: Final = 0.99
TRAINING: Final = "training"  # kind of an engine that serves nobody: its steps are no request's latency
# A p99 needs samples beyond it: 10 for the plentiful gaps between tokens, fewer for requests, which come one at a time.
MIN_SAMPLES: Final[dict[Metric, int]] = {"tbt": 1000, "ttft": 200, "e2e": 200}
WORDS: Final[dict[Metric, str]] = {
    "tbt": "time between tokens",
    "ttft": "time to first token",
    "e2e": "request duration",
}


class Pool(NamedTuple):
    """Engines whose latencies may be compared: the same stack under the same kind of load."""

    stack: str
    workload: str


@dataclass(slots=True)
class RollingCounts:
    """Bucket counts of the last `window_s` seconds of event time, kept in slices so that old ones can be taken out."""

    window_s: float
    slices: deque[tuple[int, dict[int, int]]] = field(default_factory=deque)
    total: dict[int, int] = field(default_factory=dict)
    samples: int = 0

    def add(self, now_s: float, new: Histogram) -> None:
        """Adds one interval's histogram (scale 5, as the contract's default); others are ignored by the caller."""
        number = int(now_s // SLICE_S)
        if not self.slices or number > self.slices[-1][0]:
            self.slices.append((number, {}))
        counts = self.slices[-1][1]
        for index, count in zip(new.index, new.count, strict=True):
            counts[index] = counts.get(index, 0) + count
            self.total[index] = self.total.get(index, 0) + count
            self.samples += count
        self.trim(now_s)

    def trim(self, now_s: float) -> None:
        """Forgets slices that ended before the window."""
        oldest = int((now_s - self.window_s) // SLICE_S)
        while self.slices and self.slices[0][0] < oldest:
            for index, count in self.slices.popleft()[1].items():
                self.samples -= count
                if (left := self.total[index] - count) > 0:
                    self.total[index] = left
                else:
                    del self.total[index]

    def p99(self) -> float | None:
        """The p99 in milliseconds, None for an empty window."""
        return histogram.quantile(self.total, Q)

    def above(self, bound_ms: float) -> int:
        """Samples above a bound; in its own bucket they are taken to be spread evenly, as the quantile does."""
        place = math.log2(bound_ms) * BUCKETS_PER_OCTAVE
        own = histogram.bucket(bound_ms)
        inside = self.total.get(own, 0) * (own + 1 - place)
        return round(inside) + sum(count for index, count in self.total.items() if index > own)


class LatencyPools:
    """All pools of this worker, their guards, and the targets of one strategy."""

    def __init__(self, strategy: Strategy, *, window_s: float) -> None:
        self.strategy, self.window_s = strategy, window_s
        self.guards: dict[Pool, guard.GuardState] = {}
        self._counts: dict[tuple[Pool, Group, Metric], RollingCounts] = {}

    def add(self, now_s: float, group: Group, engine: EngineReading) -> None:
        """Takes one reading of an engine; histograms of another scale than 5 are left out, never mis-read."""
        if engine.kind == TRAINING:
            return
        pool = Pool(engine.stack, engine.workload)
        for metric in METRICS:
            new: Histogram | None = getattr(engine, metric)
            if new is not None and new.index and new.scale == 5:
                self._rolling(pool, group, metric).add(now_s, new)

    def _rolling(self, pool: Pool, group: Group, metric: Metric) -> RollingCounts:
        key = (pool, group, metric)
        if key not in self._counts:
            self._counts[key] = RollingCounts(self.window_s)
        return self._counts[key]

    def p99(self, pool: Pool, group: Group, metric: Metric) -> float | None:
        """The group's p99 in milliseconds, None until it has enough samples."""
        counts = self._counts.get((pool, group, metric))
        return counts.p99() if counts is not None and counts.samples >= MIN_SAMPLES[metric] else None

    def mean_ms(self, pool: Pool, group: Group, metric: Metric) -> float | None:
        """The group's mean in milliseconds, by the middles of its buckets; None until it has enough samples."""
        counts = self._counts.get((pool, group, metric))
        if counts is None or counts.samples < MIN_SAMPLES[metric]:
            return None
        known = [(index, count) for index, count in counts.total.items() if abs(index) < 1000]  # 2**31 ms: a month
        middles = ((2.0 ** ((index + 0.5) / BUCKETS_PER_OCTAVE), count) for index, count in known)
        return float(sum(middle * count for middle, count in middles)) / counts.samples

    def target_ms(self, pool: Pool, metric: Metric) -> float | None:
        """What the strategy allows now, the guard's margin included."""
        margin = self.guards.get(pool, guard.GuardState()).margin
        return self.strategy.bound(metric).target_ms(self.p99(pool, "holdout", metric), margin)

    def targets(self, engine: EngineReading) -> LatencyTarget:
        """The targets of one engine, rounded to a microsecond."""
        pool = Pool(engine.stack, engine.workload)
        values = {m: self.target_ms(pool, m) for m in METRICS}
        rounded = {f"{m}_ms": None if v is None else round(v, 3) for m, v in values.items()}
        return LatencyTarget(engine=engine.engine, **rounded)

    def obstacle(self, engine: EngineReading, now_ns: int) -> str | None:
        """Why latency forbids any grant to this engine's GPUs now; None when all required targets are known.

        A training job has no latency: its node bounds the slowdown of its steps against its own default clocks.
        """
        if engine.kind == TRAINING:
            return None
        pool = Pool(engine.stack, engine.workload)
        if self.guards.get(pool, guard.GuardState()).rolled_back(now_ns):
            return (
                f"Automatic rollback: the controlled group of {pool.stack} was slower than the hold-out by more than "
                f"strategy {self.strategy.name} allows, so it stays at default for now."
            )
        for metric in self.strategy.required():
            if self.target_ms(pool, metric) is None:
                counts = self._counts.get((pool, "holdout", metric))
                return (
                    f"No latency target yet: {counts.samples if counts else 0} of {MIN_SAMPLES[metric]} hold-out "
                    f"samples of {WORDS[metric]} for {pool.stack}, so the GPU stays at default."
                )
        return None

    def evaluate(self, now_s: float, now_ns: int) -> list[Pool]:
        """One window of every guard; returns the pools whose margin shrank or that were rolled back."""
        for counts in self._counts.values():
            counts.trim(now_s)
        changed: list[Pool] = []
        for pool in sorted({pool for pool, _, _ in self._counts}):
            before = self.guards.get(pool, guard.GuardState())
            after = guard.step(before, self._violated(pool), now_ns)
            self.guards[pool] = after
            if after.violations_total > before.violations_total:
                changed.append(pool)
        return changed

    def _violated(self, pool: Pool) -> bool | None:
        seen: list[bool] = []
        for metric in METRICS:
            bound = self.strategy.bound(metric).limit_ms(self.p99(pool, "holdout", metric))
            p99 = self.p99(pool, "controlled", metric)
            if bound is None or p99 is None:
                continue
            ours, theirs = self._counts[pool, "controlled", metric], self._counts.get((pool, "holdout", metric))
            reference = theirs.samples if theirs is not None else ours.samples
            seen.append(p99 > bound and guard.exceeds(ours.above(bound), ours.samples, reference))
        return any(seen) if seen else None
