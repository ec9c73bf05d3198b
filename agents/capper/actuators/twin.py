"""Sets the simulated devices of the twin: registers that outlive the process, as hardware would.

Everything here is SIMULATED and says so in `quality`. It knows registers only as sequences: no numpy, no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableSequence, Sequence
from typing import Protocol

from agents.capper.actuators.base import Bounds, Knob
from agents.capper.actuators.errors import DeviceLost, OutOfRange
from streams.contract.records import Quality


class TwinRegisters(Protocol):
    """One entry per simulated GPU. `sm_lock_mhz` 0 = no lock."""

    @property
    def limit_w(self) -> MutableSequence[float]: ...
    @property
    def sm_lock_mhz(self) -> MutableSequence[float]: ...
    @property
    def limit_default_w(self) -> Sequence[float]: ...
    @property
    def limit_min_w(self) -> Sequence[float]: ...
    @property
    def limit_max_w(self) -> Sequence[float]: ...
    @property
    def sm_min_mhz(self) -> Sequence[float]: ...
    @property
    def sm_max_mhz(self) -> Sequence[float]: ...
    @property
    def power_w(self) -> Sequence[float]: ...


class TwinActuator:
    """One knob of the simulated GPUs named in `rows` (uuid -> register row)."""

    quality: Quality = "simulated"
    settle_s = 0.0
    latency_s = 0.0
    exact_readback = True

    def __init__(self, registers: TwinRegisters, knob: Knob, rows: Mapping[str, int]) -> None:
        self._registers, self._rows = registers, dict(rows)
        self._values = registers.limit_w if knob == "power_limit_w" else registers.sm_lock_mhz
        self.knob: Knob = knob
        self.name = "twin_power" if knob == "power_limit_w" else "twin_clock"
        self.capability: tuple[str, ...] = (f"{knob}.set", f"{knob}.readback=exact")

    def uuids(self) -> tuple[str, ...]:
        return tuple(self._rows)

    def bounds(self, uuid: str) -> Bounds:
        r, row = self._registers, self._row(uuid)
        if self.knob == "power_limit_w":
            return Bounds(float(r.limit_min_w[row]), float(r.limit_max_w[row]), float(r.limit_default_w[row]))
        return Bounds(float(r.sm_min_mhz[row]), float(r.sm_max_mhz[row]), float(r.sm_max_mhz[row]))

    def read(self, uuid: str) -> float | None:
        value = float(self._values[self._row(uuid)])
        return None if value == 0.0 and self.knob == "sm_lock_mhz" else value

    def set(self, uuid: str, value: float | None) -> None:
        row = self._row(uuid)
        if value is not None:
            bounds = self.bounds(uuid)
            if not bounds.minimum <= value <= bounds.maximum:
                raise OutOfRange(f"{uuid}: {value:g} is outside {bounds.minimum:g} to {bounds.maximum:g}")
        elif self.knob == "power_limit_w":
            raise OutOfRange(f"{uuid}: a power limit cannot be cleared, only set; give a number of watts")
        self._values[row] = 0.0 if value is None else value

    def measured_w(self, uuid: str) -> float | None:
        value = float(self._registers.power_w[self._row(uuid)])
        return None if math.isnan(value) else value

    def _row(self, uuid: str) -> int:
        try:
            return self._rows[uuid]
        except KeyError:
            raise DeviceLost(f"{uuid} is not among the {len(self._rows)} simulated GPUs of this node") from None
