"""Upper SM clock lock of NVIDIA GPUs through NVML, in MHz.

NVML cannot read a lock back. What can be seen is the SM clock: above the lock, the lock is not in force. An idle GPU
clocks low with or without a lock, so silence is not proof, and `capability` says so. For the same reason a lock that
somebody else had set before us cannot be found: restoring clears the lock.
"""

from __future__ import annotations

from typing import Final

from agents.capper.actuators.base import Bounds, Knob
from agents.capper.actuators.errors import NotSupported
from agents.capper.actuators.nvml import NvmlTable
from agents.capper.actuators.nvml_power import measured_w
from streams.contract.records import Quality

_TOLERANCE_MHZ: Final = 30.0  # two steps of 15 MHz: clocks are sampled while they move


class NvmlClockActuator:
    """`read` is the lock that this process set, or the SM clock when that is above the lock."""

    name = "nvml_clock"
    knob: Knob = "sm_lock_mhz"
    quality: Quality = "measured"
    settle_s = 0.25  # clocks take some tens of milliseconds to fall
    latency_s = 0.0
    exact_readback = False
    capability: tuple[str, ...] = ("sm_lock_mhz.set", "sm_lock_mhz.readback=sm_clock_below_lock")

    def __init__(self, table: NvmlTable) -> None:
        self._nvml = table
        self._locks: dict[str, float] = {}
        self._bounds: dict[str, Bounds] = {}

    def uuids(self) -> tuple[str, ...]:
        return self._nvml.uuids()

    def bounds(self, uuid: str) -> Bounds:
        """The clocks that the device lists at its highest memory clock. Raises NotSupported when it lists none."""
        if (known := self._bounds.get(uuid)) is not None:
            return known
        memory = self._nvml.call(uuid, "nvmlDeviceGetSupportedMemoryClocks")
        grid = self._nvml.call(uuid, "nvmlDeviceGetSupportedGraphicsClocks", max(memory)) if memory else []
        if not grid:
            raise NotSupported(f"{uuid} lists no clocks to lock to")
        steps = tuple(sorted(float(mhz) for mhz in grid))
        self._bounds[uuid] = Bounds(steps[0], steps[-1], steps[-1], steps)
        return self._bounds[uuid]

    def read(self, uuid: str) -> float | None:
        clock = float(self._nvml.call(uuid, "nvmlDeviceGetClockInfo", self._nvml.constant("NVML_CLOCK_SM")))
        lock = self._locks.get(uuid)
        return clock if lock is not None and clock > lock + _TOLERANCE_MHZ else lock

    def set(self, uuid: str, value: float | None) -> None:
        """Locks from the lowest clock up to `value`, so that an idle GPU may still clock down."""
        if value is None:
            self._nvml.call(uuid, "nvmlDeviceResetGpuLockedClocks")
            self._locks.pop(uuid, None)
            return
        low = round(self.bounds(uuid).minimum)
        self._nvml.call(uuid, "nvmlDeviceSetGpuLockedClocks", low, round(value))
        self._locks[uuid] = value

    def measured_w(self, uuid: str) -> float | None:
        return measured_w(self._nvml, uuid)
