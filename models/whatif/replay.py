"""Runs the twin over reconstructed requests: under what really was in force, at default, or under a strategy.

Everything that comes out of here is simulated. Control is an argument, so that this file knows no policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from models.twin.cluster import TwinCluster
from models.twin.histograms import SparseHist
from models.twin.params import SensorParams, TwinParams
from models.twin.workload import Workload
from models.whatif.series import BUCKETS, KINDS, Array, Bools, Ints, Kind, Series, quantile_ms

HALF_S: Final = 0.5  # the node's fast loop
_SECOND_S: Final = 1.0  # its telemetry
Readings = Sequence[tuple[SparseHist, SparseHist, SparseHist]]  # ttft, tbt, e2e per engine


class Control(Protocol):
    """Who decides clocks and limits during a replay."""

    def reading(self, now_s: float, twin: TwinCluster, readings: Readings) -> None:
        """A new second of telemetry."""

    def decide(self, now_s: float) -> tuple[Array, Array]:
        """Upper clock lock (0 = none) and power limit of each engine, twice a second."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the twin did in each slot."""

    power_w: Array  # [E, T] mean of one GPU
    counts: dict[Kind, Ints]  # [2, T, BUCKETS]: controlled engines, hold-out

    def energy_j(self, slots: Bools, *, gpus: int, step_s: float, engines: Bools | None = None) -> float:
        """Of all GPUs of the engines over the slots."""
        rows = self.power_w if engines is None else self.power_w[engines]
        return float(rows[:, slots].sum()) * gpus * step_s

    def p99_ms(self, kind: Kind, slots: Bools, *, arm: int | None = None) -> float:
        """Pooled over the slots; arm 0 = controlled, 1 = hold-out, None = both. NaN when nothing happened."""
        counts = self.counts[kind][:, slots]
        return quantile_ms((counts.sum(axis=0) if arm is None else counts[arm]).sum(axis=0), 0.99)

    def quantile(self, kind: Kind, slots: Bools, q: float) -> float:
        return quantile_ms(self.counts[kind][:, slots].sum(axis=(0, 1)), q)


def run(
    series: Series, work: Workload, params: TwinParams, *, slots: int | None = None, control: Control | None = None
) -> Outcome:
    """The first `slots` slots (default all): under `control`, or else under the locks and limits of the archive."""
    count = series.slots if slots is None else slots
    engines, gpus = len(series.engines), series.machine.gpus
    twin = TwinCluster(
        replicas=engines, gpus_per_replica=gpus, workload=work, params=_nominal(params, series.step_s), seed=0
    )
    power: Array = np.zeros((engines, count))
    counts: dict[Kind, Ints] = {kind: np.zeros((2, count, BUCKETS), dtype=np.int64) for kind in KINDS}
    arms = series.holdout.astype(np.int64)
    before = twin.energy_mj
    for slot in range(count):
        if control is None:
            twin.advance(
                series.step_s,
                sm_lock_mhz=np.repeat(series.lock_mhz[:, slot], gpus),
                limit_w=np.repeat(series.limit_w[:, slot], gpus),
            )
            _count(counts, slot, arms, [twin.take_histograms(engine) for engine in range(engines)])
        else:
            _controlled(twin, control, counts, slot, arms, until_s=(slot + 1) * series.step_s)
        after = twin.energy_mj
        power[:, slot] = ((after - before) / 1e3 / series.step_s).reshape(engines, gpus).mean(axis=1)
        before = after
    return Outcome(power, counts)


def at_default(series: Series) -> Series:
    """The same engines with no lock and the default limit: baseline B0."""
    limit = np.full_like(series.limit_w, series.machine.limit_default_w)
    return replace(series, lock_mhz=np.zeros_like(series.lock_mhz), limit_w=limit)


def _controlled(
    twin: TwinCluster, control: Control, counts: dict[Kind, Ints], slot: int, arms: Ints, *, until_s: float
) -> None:
    gpus = twin.gpus_per_replica
    while twin.now_s < until_s - 1e-6:
        for _ in range(round(_SECOND_S / HALF_S)):
            lock, limit = control.decide(twin.now_s)
            twin.advance(HALF_S, sm_lock_mhz=np.repeat(lock, gpus), limit_w=np.repeat(limit, gpus))
        readings = [twin.take_histograms(engine) for engine in range(twin.replicas)]
        _count(counts, slot, arms, readings)
        control.reading(twin.now_s, twin, readings)


def _count(counts: dict[Kind, Ints], slot: int, arms: Ints, readings: Readings) -> None:
    for arm, reading in zip(arms, readings, strict=True):
        for kind, sparse in zip(KINDS, reading, strict=True):
            if sparse.index:
                counts[kind][arm, slot, list(sparse.index)] += sparse.count


def _nominal(params: TwinParams, step_s: float) -> TwinParams:
    """Without a spread between GPUs, and with a sensor that costs no steps: energy comes from the counter."""
    return replace(params, power_spread=0.0, sensor=SensorParams(window_s=step_s, period_s=step_s))
