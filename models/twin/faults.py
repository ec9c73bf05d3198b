"""Faults of the simulated hardware: what breaks, when, and what it does to readings, limits and speed.

Rates: 419 unexpected interruptions of 16,384 H100 in 54 days (Llama 3 Herd of Models, arXiv 2407.21783, table 5), of
which 148 faulty GPUs, 72 HBM and 35 network switches and cables. How long a fault lasts is an assumption.
It must not hide a fault: whoever simulates one says so in the row's quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

Kind = Literal[
    "gpu_lost",  # fell off the bus (XID 79): no readings, no work, draws nothing that anybody sees
    "thermal",  # clogged or broken fan: thermal resistance times `amount`
    "power_brake",  # hardware slowdown: clock at half
    "sensor_stuck",  # the last reading for ever
    "sensor_biased",  # reading times `amount`
    "sensor_missing",  # no reading
    "counter_reset",  # the energy counter starts from 0 at the fault's start
    "limit_ignored",  # a write is accepted and has no effect
    "slow_rank",  # step time times `amount`
    "burn",  # a foreign process keeps every unit busy: draws `amount` of what clock and limit allow
    "starved",  # a router that passes one request of `amount` to the GPU's engine, and the others elsewhere
]
PER_GPU_HOUR: Final[dict[Kind, float]] = {
    "gpu_lost": 148 / (16_384 * 54 * 24),
    "slow_rank": 35 / (16_384 * 54 * 24),  # network cards and cables: seen as a slow rank before it is seen as a fault
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of some GPUs from start to end (inf = until repaired)."""

    kind: Kind
    start_s: float
    end_s: float
    gpus: tuple[int, ...]
    amount: float = 1.0

    def __post_init__(self) -> None:
        if not self.start_s < self.end_s:
            raise ValueError(f"fault {self.kind} ends at {self.end_s:g} s, not after its start at {self.start_s:g} s")
        if not self.amount > 0.0:
            raise ValueError(f"fault {self.kind} has amount {self.amount:g}; give a factor above 0")

    def active(self, now_s: float) -> bool:
        return self.start_s <= now_s < self.end_s


def schedule(
    kind: Kind, *, gpus: int, seconds: float, seed: int, lasts_s: float, per_gpu_hour: float | None = None
) -> list[Fault]:
    """Independent faults of single GPUs at the published rate (or another), each for `lasts_s`."""
    rate = PER_GPU_HOUR.get(kind) if per_gpu_hour is None else per_gpu_hour
    if rate is None:
        raise ValueError(f"no rate of {kind} is published; give per_gpu_hour")
    rng = np.random.default_rng(seed)
    count = int(rng.poisson(rate * gpus * seconds / 3600.0))
    starts = np.sort(rng.random(count) * seconds).tolist()
    chosen = rng.integers(0, gpus, count).tolist()
    return [Fault(kind, start, start + lasts_s, (gpu,)) for start, gpu in zip(starts, chosen, strict=True)]


def hit(faults: Sequence[Fault], kind: Kind, now_s: float, gpus: int) -> Bools:
    """GPUs that a fault of this kind has now."""
    found = np.zeros(gpus, dtype=np.bool_)
    for fault in faults:
        if fault.kind == kind and fault.active(now_s):
            found[list(fault.gpus)] = True
    return found


def factor(faults: Sequence[Fault], kind: Kind, now_s: float, gpus: int) -> Array:
    """Product of the amounts of this kind for each GPU; 1 where there is none."""
    found = np.ones(gpus)
    for fault in faults:
        if fault.kind == kind and fault.active(now_s):
            found[list(fault.gpus)] *= fault.amount
    return found


def largest(faults: Sequence[Fault], kind: Kind, now_s: float, gpus: int) -> Array:
    """The largest amount of this kind for each GPU; 0 where there is none."""
    found = np.zeros(gpus)
    for fault in faults:
        if fault.kind == kind and fault.active(now_s):
            rows = list(fault.gpus)
            found[rows] = np.maximum(found[rows], fault.amount)
    return found


class FaultySensor:
    """What is read of true readings: NaN is "no reading"; the counter restarts where it was reset."""

    def __init__(self, faults: Sequence[Fault], gpus: int) -> None:
        self._faults, self._gpus = faults, gpus
        self._last_w = np.full(gpus, np.nan)
        self._base_mj = np.zeros(gpus)
        self._reset = np.zeros(gpus, dtype=np.bool_)

    def read(self, now_s: float, power_w: Array, energy_mj: Array) -> tuple[Array, Array]:
        """Watts and millijoules as a reader sees them."""
        gone = hit(self._faults, "gpu_lost", now_s, self._gpus)
        stuck = hit(self._faults, "sensor_stuck", now_s, self._gpus) & np.isfinite(self._last_w)
        shown = np.where(stuck, self._last_w, power_w * factor(self._faults, "sensor_biased", now_s, self._gpus))
        self._last_w = np.where(gone, self._last_w, shown)
        reset = hit(self._faults, "counter_reset", now_s, self._gpus)
        self._base_mj = np.where(reset & ~self._reset, energy_mj, self._base_mj)
        self._reset = reset
        missing = gone | hit(self._faults, "sensor_missing", now_s, self._gpus)
        counter = np.where(gone, np.nan, energy_mj - self._base_mj)
        return np.where(missing, np.nan, shown), counter


def obeyed(faults: Sequence[Fault], now_s: float, *, asked_w: Array, before_w: Array) -> Array:
    """Limits in force after a write that some GPUs ignore."""
    return np.where(hit(faults, "limit_ignored", now_s, len(asked_w)), before_w, asked_w)
