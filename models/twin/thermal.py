"""Temperatures of all GPUs and what they do to the clock. Two first-order stages; leakage is read off the die."""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import NDArray

from models.twin.params import ThermalParams

Array = NDArray[np.float64]


class Thermal:
    """Heat sink (minutes) and die (half a second) of each GPU, advanced with the mean watts of a step."""

    def __init__(self, params: ThermalParams, *, inlet_c: Array, start_w: Array) -> None:
        """Starts at the steady temperature of `start_w`."""
        self._params = params
        self._inlet_c = inlet_c
        self.sink_c: Array = inlet_c + params.sink_k_per_w * start_w
        self.die_c: Array = self.sink_c + params.die_k_per_w * start_w

    def step(self, dt_s: float, mean_w: Array) -> None:
        """Advances dt_s seconds: exact for constant watts."""
        p = self._params
        self.sink_c += (self._inlet_c + p.sink_k_per_w * mean_w - self.sink_c) * (1.0 - exp(-dt_s / p.sink_tau_s))
        self.die_c += (self.sink_c + p.die_k_per_w * mean_w - self.die_c) * (1.0 - exp(-dt_s / p.die_tau_s))

    def clock_ceiling(self) -> Array:
        """Highest x that the temperature allows: 1 below the slowdown temperature, half above the hardware's."""
        p = self._params
        ceiling = 1.0 - p.slowdown_per_k * np.maximum(self.die_c - p.slowdown_c, 0.0)
        return np.where(self.die_c >= p.hw_slowdown_c, np.minimum(ceiling, p.hw_slowdown_x), ceiling)

    def software_slowdown(self) -> NDArray[np.bool_]:
        """GPUs above the slowdown temperature."""
        return self.die_c > self._params.slowdown_c

    def hardware_slowdown(self) -> NDArray[np.bool_]:
        """GPUs at or above the hardware slowdown temperature."""
        return self.die_c >= self._params.hw_slowdown_c

    def leak_w(self) -> Array:
        """Watts above (below: negative) those at the reference temperature; all zero unless leakage is on."""
        found: Array = self._params.leak_w_per_k * (self.die_c - self._params.leak_reference_c)
        return found
