"""Fits jobs and the law of their device to recorded sweeps of a power limit or a clock.

Three settings of a job are enough to predict the others, because what jobs of a device have in common is learned from
other jobs: the law (static watts, voltage knee, clock floor) and how job parameters are spread. Values in, values out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.twin.fitting import Prior, best_of, diagonal, learn_prior
from models.twin.job import JobLaw, Jobs, run

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

TIME_SIGMA: Final = 0.01
POWER_SIGMA: Final = 0.015
TELLING: Final = 0.1  # a job is slowed by a tenth between its fastest and its slowest setting
LEAST_TELLING: Final = 4
# logit light share, log dynamic watts, logit light ratio, logit clock share, log of the job's static over the device's
WIDE: Final = diagonal(np.array([-1.0, 4.8, 0.0, 1.0, 0.0]), np.array([2.0, 1.5, 2.0, 2.0, 0.1]))
ONE_PHASE: Final = diagonal(np.array([-6.0, 5.3, 0.0, 1.0, 0.0]), np.array([0.1, 0.8, 0.5, 2.0, 0.1]))
_FLOOR: Final = np.array([0.5, 0.3, 0.5, 0.5, 0.05])
_LAW_NAMES: Final = ("static_w", "v_min", "x_knee", "x_floor")
_LAW_LOW: Final = np.array([5.0, 0.4, 0.3, 0.05])
_LAW_HIGH: Final = np.array([400.0, 0.98, 0.95, 0.6])
_LAW_SIGMA: Final = np.array([0.25, 0.08, 0.12, 0.1])  # static: relative; the others absolute
GENERIC_LAW: Final = JobLaw(static_w=60.0, v_min=0.77, x_knee=0.70, x_floor=0.18)  # mean of V100, A40, P100, A100


@dataclass(frozen=True, slots=True)
class Sweep:
    """One workload on one device at several settings of one knob; NaN nowhere, at least two settings."""

    name: str
    device: str
    knob: str  # limit_w or clock_mhz
    setting: Array  # ascending
    lock_x: Array
    limit_w: Array  # inf where there is none
    time_s: Array
    watts: Array

    @property
    def energy(self) -> Array:
        return self.time_s * self.watts


@dataclass(frozen=True, slots=True)
class DeviceFit:
    """Law and spread of the jobs of a device."""

    law: JobLaw
    prior: Prior


@dataclass(frozen=True, slots=True)
class _Table:
    """Sweeps padded to one length; `used` is 1 for the settings to fit."""

    lock_x: Array
    limit_w: Array
    time_s: Array
    watts: Array
    used: Array


Chosen = Callable[[Sweep], Bools]


def every(sweep: Sweep) -> Bools:
    """All settings of a sweep."""
    return np.ones(len(sweep.setting), dtype=np.bool_)


def three(sweep: Sweep) -> Bools:
    """The highest and the lowest setting and the middle one: what an operator measures to fit a new workload."""
    chosen = np.zeros(len(sweep.setting), dtype=np.bool_)
    chosen[[0, len(sweep.setting) // 2, -1]] = True
    return chosen


def every_nth(nth: int) -> Chosen:
    """Every nth setting, the highest among them."""

    def chosen(sweep: Sweep) -> Bools:
        return np.asarray((len(sweep.setting) - 1 - np.arange(len(sweep.setting))) % nth == 0, dtype=np.bool_)

    return chosen


def fit(device: DeviceFit, sweeps: Sequence[Sweep], chosen: Chosen = every, *, iterations: int = 40) -> Jobs:
    """Jobs fitted to the chosen settings of each sweep."""
    parameters, _ = _fit(device, _table(sweeps, chosen), iterations=iterations)
    return _jobs(device.law, parameters)


def predict(device: DeviceFit, jobs: Jobs, sweeps: Sequence[Sweep]) -> list[tuple[Array, Array]]:
    """Seconds and watts at every setting of each sweep."""
    table = _table(sweeps, every)
    time_s, watts = run(device.law, jobs, lock_x=table.lock_x, limit_w=table.limit_w)
    counts = [len(sweep.setting) for sweep in sweeps]
    return [(time_s[row, :count], watts[row, :count]) for row, count in enumerate(counts)]


def learn(
    sweeps: Sequence[Sweep],
    chosen: Chosen = every,
    *,
    start: JobLaw = GENERIC_LAW,
    prior: Prior = WIDE,
    rounds: int = 3,
    trials: int = 80,
) -> DeviceFit:
    """Law and spread from whole sweeps (or from the chosen settings), in turns.

    Jobs that the knob does not slow say nothing about the device's law and are left out while enough others are there.
    """
    table, spread, law = _table(_telling(sweeps, chosen), chosen), prior, start
    for turn in range(rounds):
        law = _search_law(table, law, start, spread, trials=trials, reach=0.12 / (turn + 1))
        fitted, _ = _fit(DeviceFit(law, spread), table)
        spread = learn_prior(fitted[:, 1:], floor_sigma=_FLOOR, spread=spread)
    return DeviceFit(law, spread)


def _telling(sweeps: Sequence[Sweep], chosen: Chosen) -> Sequence[Sweep]:
    moved = [one for one in sweeps if np.ptp(np.log(one.time_s[chosen(one)])) > TELLING]
    return moved if len(moved) >= LEAST_TELLING else sweeps


def _search_law(table: _Table, law: JobLaw, start: JobLaw, spread: Prior, *, trials: int, reach: float) -> JobLaw:
    from scipy.optimize import minimize

    base, centre = _law_values(law), _law_values(start)
    sigma = _LAW_SIGMA * np.array([centre[0], 1.0, 1.0, 1.0])

    def cost(scale: Array) -> float:
        values = scale * base
        if np.any(values < _LAW_LOW) or np.any(values > _LAW_HIGH):
            return 1e12
        _, squares = _fit(DeviceFit(_law(values, law), spread), table, iterations=15)
        return float(squares.sum() + (((values - centre) / sigma) ** 2).sum())

    corner = np.ones(len(base))
    simplex = np.vstack([corner, *(corner + reach * row for row in np.eye(len(base)))])
    options = {"maxfev": trials, "xatol": 3e-3, "fatol": 0.5, "initial_simplex": simplex}
    found = minimize(cost, corner, method="Nelder-Mead", options=options)
    return _law(np.asarray(found.x) * base, law)


def _fit(device: DeviceFit, table: _Table, *, iterations: int = 40) -> tuple[Array, Array]:
    law, mean, white = device.law, device.prior.mean, device.prior.whitener()

    def residuals(p: Array) -> Array:
        time_s, watts = run(law, _jobs(law, p), lock_x=table.lock_x, limit_w=table.limit_w)
        time_off = table.used * np.log(time_s / table.time_s) / TIME_SIGMA
        power_off = table.used * np.log(watts / table.watts) / POWER_SIGMA
        return np.concatenate([time_off, power_off, (p[:, 1:] - mean) @ white], axis=1)

    return best_of(residuals, _starts(law, mean, table), iterations=iterations)


def _starts(law: JobLaw, mean: Array, table: _Table) -> list[Array]:
    """Two: mostly heavy, and mostly light. The time and the watts to begin with are those of the sweep."""
    base = np.zeros((len(table.time_s), 6))
    base[:, 1:] = mean
    base[:, 0] = np.log(np.min(np.where(table.used > 0, table.time_s, np.inf), axis=1))
    most_w = np.max(np.where(table.used > 0, table.watts, 0.0), axis=1)
    base[:, 2] = np.log(np.maximum(1.05 * most_w - law.static_w, 5.0))
    if mean[0] < -5.0:
        return [base]
    heavy, light = base.copy(), base.copy()
    heavy[:, 1], light[:, 1] = -2.0, 0.5
    return [heavy, light]


def _jobs(law: JobLaw, p: Array) -> Jobs:
    return Jobs(
        time_s=np.exp(p[:, 0]),
        light_share=_logistic(p[:, 1]),
        dynamic_w=np.exp(p[:, 2]),
        light_ratio=_logistic(p[:, 3]),
        clock_share=_logistic(p[:, 4]),
        static_w=law.static_w * np.exp(p[:, 5]),
    )


def _logistic(z: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -40.0, 40.0))), dtype=np.float64)


def _table(sweeps: Sequence[Sweep], chosen: Chosen) -> _Table:
    shape = (len(sweeps), max(len(sweep.setting) for sweep in sweeps))
    table = _Table(np.ones(shape), np.full(shape, np.inf), np.ones(shape), np.ones(shape), np.zeros(shape))
    for row, sweep in enumerate(sweeps):
        count = len(sweep.setting)
        table.lock_x[row, :count], table.limit_w[row, :count] = sweep.lock_x, sweep.limit_w
        table.time_s[row, :count], table.watts[row, :count] = sweep.time_s, sweep.watts
        table.used[row, :count] = chosen(sweep)
    return table


def _law_values(law: JobLaw) -> Array:
    return np.array([getattr(law, name) for name in _LAW_NAMES])


def _law(values: Array, like: JobLaw) -> JobLaw:
    static_w, v_min, x_knee, x_floor = values.tolist()
    return JobLaw(static_w, v_min, x_knee, x_floor, like.sharpness)
