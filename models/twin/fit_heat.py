"""Die temperature after power: two stages fitted to the first part of recordings and judged on the rest; leakage.

Leakage is read off the same recordings: watts of the idle board at one clock, warm after a load and cold before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STEP_S: Final = 0.02
_SPLIT: Final = 0.6  # of each recording is fitted
_START: Final = np.log([0.063, 0.5, 0.009, 60.0])
_SIGMA: Final = np.array([0.7, 1.0, 1.5, 0.7])


@dataclass(frozen=True, slots=True)
class HeatRecord:
    """Watts on a regular grid of 20 ms from time 0, and temperatures at their own times."""

    watts: Array
    time_s: Array
    temp_c: Array


@dataclass(frozen=True, slots=True)
class HeatFit:
    """Resistances and times of die and sink; rmse on the points fitted and on those after them."""

    die_k_per_w: float
    die_tau_s: float
    sink_k_per_w: float
    sink_tau_s: float
    rmse_k: float
    judged_rmse_k: float
    judged: int


def regular(time_s: Array, watts: Array) -> Array:
    """Means of 20 ms from samples that each stand for the time before them."""
    grid = np.arange(0.0, time_s[-1], _STEP_S)
    joules = np.concatenate([[0.0], np.cumsum(watts * np.diff(time_s, prepend=0.0))])
    return np.asarray(np.diff(np.interp(grid, np.concatenate([[0.0], time_s]), joules)) / _STEP_S, dtype=np.float64)


def fit(records: Sequence[HeatRecord]) -> HeatFit:
    """One set of constants for all recordings."""
    from scipy.optimize import least_squares

    early = [one.time_s <= _SPLIT * one.time_s[-1] for one in records]

    def off(values: Array, rows: Sequence[NDArray[np.bool_]]) -> Array:
        return np.concatenate(
            [(_simulate(values, one) - one.temp_c)[row] for one, row in zip(records, rows, strict=True)]
        )

    def residuals(values: Array) -> Array:
        return np.concatenate([off(values, early), (values - _START) / _SIGMA])

    found = np.asarray(least_squares(residuals, _START, diff_step=1e-3).x)
    rest = off(found, [~row for row in early])
    die, tau, sink, slow = np.exp(found).tolist()
    return HeatFit(die, tau, sink, slow, _rms(off(found, early)), _rms(rest), len(rest))


def leak_w_per_k(record: HeatRecord, *, idle_below_w: float) -> float | None:
    """Slope of idle watts against temperature; None where the idle board never warmed by 1.5 K."""
    grid = (np.arange(len(record.watts)) + 0.5) * _STEP_S
    width = int(0.5 / _STEP_S)
    blocks = record.watts[: len(record.watts) // width * width].reshape(-1, width)
    quiet = blocks.max(axis=1) < idle_below_w
    mean = blocks.mean(axis=1)[quiet]
    when = grid[: len(record.watts) // width * width].reshape(-1, width).mean(axis=1)[quiet]
    temp = np.interp(when, record.time_s, record.temp_c)
    if len(temp) < 4 or np.ptp(temp) < 1.5:
        return None
    return float(np.polyfit(temp, mean, 1)[0])


def _simulate(values: Array, record: HeatRecord) -> Array:
    """Exact for constant watts within a step; steady at the first temperature and watts."""
    die_r, die_tau, sink_r, sink_tau = np.exp(values).tolist()
    sink_rise = _first_order(sink_r * (record.watts - record.watts[0]), sink_tau)
    die_rise = _first_order(sink_rise + die_r * (record.watts - record.watts[0]), die_tau)
    grid = np.arange(1, len(record.watts) + 1) * _STEP_S
    return np.asarray(record.temp_c[0] + np.interp(record.time_s, grid, die_rise), dtype=np.float64)


def _first_order(goal: Array, tau_s: float) -> Array:
    from scipy.signal import lfilter

    gain = 1.0 - np.exp(-_STEP_S / tau_s)
    return np.asarray(lfilter([gain], [1.0, gain - 1.0], goal), dtype=np.float64)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))
