"""The actuation job's own latency pools, fed by a replay: so a what-if grants exactly as the job would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from models.control.types import Targets
from streams.contract.records import EngineReading, Histogram

if TYPE_CHECKING:
    from models.policy.strategies import Strategy
    from models.twin.histograms import SparseHist
    from models.whatif.replay import Outcome
    from models.whatif.series import Series

GUARD_EVERY_S: Final = 10.0


class PooledTargets:
    """Implements models.whatif.control.TargetsPort with streams.jobs.actuation_latency.LatencyPools.

    Without a hold-out in the series (too few engines) the twin's own run at default clocks takes its place.
    """

    def __init__(self, series: Series, strategy: Strategy, *, window_s: float, reference: Outcome | None) -> None:
        from streams.jobs.actuation_latency import LatencyPools

        self._series, self._reference = series, reference
        self._pools = LatencyPools(strategy, window_s=window_s)
        self._guard_s, self._fed = 0.0, 0
        self.rollbacks = 0
        self._plain = [self._reading(name) for name in series.engines]

    def add(self, now_s: float, engine: int, reading: tuple[SparseHist, SparseHist, SparseHist]) -> None:
        held = bool(self._series.holdout[engine]) and self._reference is None
        histograms = [_histogram(sparse.index, sparse.count, sparse.sum_ms) for sparse in reading]
        told = self._reading(self._series.engines[engine], *histograms)
        self._pools.add(now_s, "holdout" if held else "controlled", told)

    def evaluate(self, now_s: float) -> None:
        self._feed(now_s)
        if now_s - self._guard_s >= GUARD_EVERY_S:
            self._guard_s = now_s
            self.rollbacks += len(self._pools.evaluate(now_s, _ns(now_s)))

    def obstacle(self, engine: int, now_s: float) -> str | None:
        return self._pools.obstacle(self._plain[engine], _ns(now_s))

    def targets(self, engine: int) -> Targets:
        target = self._pools.targets(self._plain[engine])
        return Targets(target.tbt_ms, target.ttft_ms, target.e2e_ms)

    def _feed(self, now_s: float) -> None:
        """The twin at default clocks, as far as the replay has come."""
        if self._reference is None:
            return
        while (self._fed + 1) * self._series.step_s <= now_s and self._fed < self._series.slots:
            dense = (self._reference.counts[kind][:, self._fed].sum(axis=0) for kind in ("ttft", "tbt", "e2e"))
            histograms = []
            for counts in dense:
                index = np.flatnonzero(counts)
                histograms.append(_histogram(tuple(index.tolist()), tuple(counts[index].tolist()), 0.0))
            self._pools.add((self._fed + 1) * self._series.step_s, "holdout", self._reading("default", *histograms))
            self._fed += 1

    def _reading(
        self, name: str, ttft: Histogram | None = None, tbt: Histogram | None = None, e2e: Histogram | None = None
    ) -> EngineReading:
        series = self._series
        return EngineReading(
            engine=name,
            kind="twin",
            stack=series.stack,
            workload=series.workload,
            gpu_uuid=(),
            ts_ns=0,
            ttft=ttft,
            tbt=tbt,
            e2e=e2e,
        )


def _histogram(index: tuple[int, ...], count: tuple[int, ...], sum_ms: float) -> Histogram:
    return Histogram(index=index, count=count, sum_ms=sum_ms)


def _ns(now_s: float) -> int:
    return int(now_s * 1e9)
