"""Pretends to set: reads the real device once, keeps every set value in memory, and never writes to hardware."""

from __future__ import annotations

from agents.capper.actuators.base import Actuator, Bounds, Knob
from agents.capper.actuators.errors import OutOfRange
from streams.contract.records import Quality


class DryRunActuator:
    """Wraps an actuator that can read; `set` changes only what `read` pretends afterwards."""

    quality: Quality = "simulated"
    settle_s = 0.0
    latency_s = 0.0
    exact_readback = True

    def __init__(self, inner: Actuator) -> None:
        self._inner = inner
        self._pretended: dict[str, float | None] = {}
        self.knob: Knob = inner.knob
        self.name = f"dry_run({inner.name})"
        self.capability: tuple[str, ...] = (*inner.capability, f"{inner.knob}.dry_run")

    def uuids(self) -> tuple[str, ...]:
        return self._inner.uuids()

    def bounds(self, uuid: str) -> Bounds:
        return self._inner.bounds(uuid)

    def read(self, uuid: str) -> float | None:
        """The pretended value, or the device's own until one was pretended."""
        return self._pretended[uuid] if uuid in self._pretended else self._inner.read(uuid)

    def set(self, uuid: str, value: float | None) -> None:
        """Remembers the value; refuses what the device would refuse, so that a rehearsal fails as the real thing."""
        bounds = self._inner.bounds(uuid)
        if value is not None and not bounds.minimum <= value <= bounds.maximum:
            raise OutOfRange(f"{uuid}: {value:g} is outside {bounds.minimum:g} to {bounds.maximum:g}")
        self._pretended[uuid] = value

    def measured_w(self, uuid: str) -> float | None:
        return self._inner.measured_w(uuid)
