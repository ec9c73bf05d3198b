"""Racks and the room: distribution losses, breakers, heat and cooling. First-order, and an assumption throughout.

The PUE that comes out (1.1 to 1.4) is held to what operators publish: 1.10 as a fleet's mean (Google, 2023), 1.58 as
the mean of the Uptime Institute's survey of 2023. It must not decide anything: placement and budgets are policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoomParams:
    """One hall of air- or water-cooled racks."""

    pdu_loss: float = 0.015  # of the watts at the nodes
    ups_loss: float = 0.04
    fixed_ratio: float = 0.02  # lighting, controls: share of the rated IT watts
    rated_w: float = 1e6
    air_ratio: float = 0.04  # room fans and pumps: share of the heat
    free_below_c: float = 18.0  # outside temperature up to which no compressor runs
    cop_at_35c: float = 3.5  # of the compressors; better by cop_per_k for each kelvin below
    cop_per_k: float = 0.12
    supply_c: float = 24.0
    rise_k_per_w: float = 6e-6  # of the inlet above supply, per watt in the hall
    tau_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Facility:
    """Watts at the meter of the building and where they go."""

    it_w: float
    distribution_w: float
    cooling_w: float
    total_w: float

    @property
    def pue(self) -> float | None:
        """Total over IT watts; None when nothing runs."""
        return self.total_w / self.it_w if self.it_w > 0.0 else None


def rack_w(node_wall_w: Array, rack: NDArray[np.int64], racks: int, params: RoomParams) -> Array:
    """Watts drawn by each rack, with its distribution loss."""
    return np.asarray(np.bincount(rack, weights=node_wall_w, minlength=racks) * (1.0 + params.pdu_loss))


def over_budget(racks_w: Array, budget_w: Array) -> NDArray[np.bool_]:
    """Racks above what their breaker may carry for long."""
    return np.asarray(racks_w > budget_w, dtype=np.bool_)


def facility(racks_w: Array, *, outside_c: float, params: RoomParams) -> Facility:
    """The building at this moment."""
    through = float(racks_w.sum())
    it_w = through / (1.0 + params.pdu_loss)
    distribution = through - it_w + through * params.ups_loss + params.fixed_ratio * params.rated_w
    heat = through * (1.0 + params.ups_loss)
    cooling = heat * (params.air_ratio + _compressor_share(outside_c, params) / _cop(outside_c, params))
    return Facility(it_w, distribution, cooling, it_w + distribution + cooling)


def _cop(outside_c: float, params: RoomParams) -> float:
    return max(params.cop_at_35c + params.cop_per_k * (35.0 - outside_c), 1.0)


def _compressor_share(outside_c: float, params: RoomParams) -> float:
    """None up to the free-cooling temperature, all of the heat ten kelvin above it."""
    return min(max((outside_c - params.free_below_c) / 10.0, 0.0), 1.0)


class RoomAir:
    """Inlet temperature of the hall, which follows its heat in minutes."""

    def __init__(self, params: RoomParams, *, start_w: float) -> None:
        self._params = params
        self.inlet_c = params.supply_c + params.rise_k_per_w * start_w

    def step(self, dt_s: float, heat_w: float, *, supply_rise_k: float = 0.0) -> float:
        """Moves on dt_s seconds; supply_rise_k above 0 is a cooling failure. Gives the inlet temperature."""
        p = self._params
        goal = p.supply_c + supply_rise_k + p.rise_k_per_w * heat_w
        self.inlet_c += (goal - self.inlet_c) * (1.0 - exp(-dt_s / p.tau_s))
        return self.inlet_c
