"""The contract of an actuator: one knob of a set of GPUs, keyed by UUID, in absolute values.

An actuator translates one device call into one method and one vendor error into one of ours. It must not decide:
bounds, rates, leases and restoring belong to the core, and an actuator that clamps or retries would hide what really
happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from streams.contract.records import Quality

Knob = Literal["power_limit_w", "sm_lock_mhz"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a device takes for one knob; `grid` lists the only allowed values, empty = any value in between."""

    minimum: float
    maximum: float
    default: float
    grid: tuple[float, ...] = ()


class Actuator(Protocol):
    """One knob of several GPUs: watts for power limits, MHz for the upper SM clock lock. Calls may raise ActuatorError.

    `settle_s` bounds how long a value may take to show in `read` after `set` (0 = at once). `exact_readback` is False
    where the device cannot tell the value itself (NVML and clock locks): a restore then always sets. `latency_s` above
    0 marks a device out of band: `set` returns at once, and the value may take so long to show. `capability` says
    the same in words for people, for example "sm_lock_mhz.readback=sm_clock".
    """

    name: str
    knob: Knob
    quality: Quality
    settle_s: float
    latency_s: float
    exact_readback: bool
    capability: tuple[str, ...]

    def uuids(self) -> tuple[str, ...]:
        """The GPUs that this actuator reaches."""
        ...

    def bounds(self, uuid: str) -> Bounds:
        """What the device itself allows."""
        ...

    def read(self, uuid: str) -> float | None:
        """The value in force now, from the device; None = no lock."""
        ...

    def set(self, uuid: str, value: float | None) -> None:
        """Asks the device for a value; None clears a lock. Returning says nothing about effect: read it back."""
        ...

    def measured_w(self, uuid: str) -> float | None:
        """Board power now, None = unknown."""
        ...
