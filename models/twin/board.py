"""The boards: what actuation asks of each GPU, when it lands, and what the slowest GPU leaves to its replica."""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import NDArray

from models.control.profiles import DeviceCurve
from models.twin.engine import Clocks
from models.twin.params import ActuationParams

Array = NDArray[np.float64]

_SETTLED_W = 0.1


class Boards:
    """Clock lock (lands after a delay) and power limit (settles exponentially) of all GPUs."""

    def __init__(self, device: DeviceCurve, params: ActuationParams, *, factor: Array, per_replica: int) -> None:
        """`factor` is each GPU's power relative to a nominal one."""
        gpus = len(factor)
        self._device = device
        self._params = params
        self._factor = factor
        self._per_replica = per_replica
        self._asked_mhz: Array = np.zeros(gpus)
        self._lands_s: Array = np.full(gpus, np.inf)
        self._lock_x: Array = np.ones(gpus)
        self._limit_goal_w: Array = np.full(gpus, device.limit_default_w)
        self.limit_w: Array = self._limit_goal_w.copy()

    def ask(self, now_s: float, *, sm_lock_mhz: Array, limit_w: Array) -> None:
        """New wishes; a lock that is still on its way lands when the first of its changes would have."""
        changed = sm_lock_mhz != self._asked_mhz
        if changed.any():
            waiting = np.isinf(self._lands_s)
            self._lands_s[changed & waiting] = now_s + self._params.clock_delay_s
            self._asked_mhz = sm_lock_mhz.copy()
        self._limit_goal_w = np.clip(limit_w, self._device.limit_min_w, self._device.limit_max_w)

    def landings(self, until_s: float) -> list[float]:
        """Times up to until_s at which a lock lands."""
        return [float(time) for time in np.unique(self._lands_s[self._lands_s <= until_s])]

    def step(self, now_s: float, dt_s: float) -> bool:
        """Moves locks and limits to now_s, dt_s after the last step; true if anything changed."""
        landed = self._lands_s <= now_s
        if landed.any():
            self._lock_x[landed] = self._grid_x(self._asked_mhz[landed])
            self._lands_s[landed] = np.inf
        gap = self._limit_goal_w - self.limit_w
        moves = bool((gap != 0.0).any())
        if moves:
            gap *= np.where(np.abs(gap) < _SETTLED_W, 1.0, 1.0 - exp(-dt_s / self._params.limit_tau_s))
            self.limit_w += gap
        return moves or bool(landed.any())

    def clocks(self, ceiling_x: Array) -> Clocks:
        """Per replica: all its GPUs wait for the slowest, and the tightest limit decides."""
        x = np.minimum(self._lock_x, np.maximum(ceiling_x, self._device.fmin_mhz / self._device.fmax_mhz))
        return Clocks(x=self._slowest(x), cap_w=self._slowest(self.limit_w / self._factor))

    def _slowest(self, values: Array) -> Array:
        found: Array = values.reshape(-1, self._per_replica).min(axis=1)
        return found

    def _grid_x(self, mhz: Array) -> Array:
        device = self._device
        on_grid = np.floor(np.clip(mhz, device.fmin_mhz, device.fmax_mhz) / device.step_mhz) * device.step_mhz
        return np.where(mhz <= 0.0, 1.0, on_grid / device.fmax_mhz)
