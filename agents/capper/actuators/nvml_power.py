"""Power limit of NVIDIA GPUs through NVML, in watts.

It sets with nvmlDeviceSetPowerManagementLimit (version 1): the bindings' version 2 drops the driver's return code and
always reports success. The limit does not survive a driver unload without persistence mode.
"""

from __future__ import annotations

from agents.capper.actuators.base import Bounds, Knob
from agents.capper.actuators.errors import ActuatorError, OutOfRange
from agents.capper.actuators.nvml import NvmlTable
from streams.contract.records import Quality


class NvmlPowerActuator:
    """`read` is the limit that was set on the device (not the enforced one, which other limits may hold lower)."""

    name = "nvml_power"
    knob: Knob = "power_limit_w"
    quality: Quality = "measured"
    settle_s = 0.0
    latency_s = 0.0
    exact_readback = True
    capability: tuple[str, ...] = ("power_limit_w.set", "power_limit_w.readback=exact")

    def __init__(self, table: NvmlTable) -> None:
        self._nvml = table

    def uuids(self) -> tuple[str, ...]:
        return self._nvml.uuids()

    def bounds(self, uuid: str) -> Bounds:
        low, high = self._nvml.call(uuid, "nvmlDeviceGetPowerManagementLimitConstraints")
        default = self._nvml.call(uuid, "nvmlDeviceGetPowerManagementDefaultLimit")
        return Bounds(low / 1000, high / 1000, default / 1000)

    def read(self, uuid: str) -> float | None:
        return float(self._nvml.call(uuid, "nvmlDeviceGetPowerManagementLimit")) / 1000

    def set(self, uuid: str, value: float | None) -> None:
        if value is None:
            raise OutOfRange(f"{uuid}: a power limit cannot be cleared, only set; give a number of watts")
        self._nvml.call(uuid, "nvmlDeviceSetPowerManagementLimit", round(value * 1000))

    def measured_w(self, uuid: str) -> float | None:
        return measured_w(self._nvml, uuid)


def measured_w(table: NvmlTable, uuid: str) -> float | None:
    """Board power, watts; None where the device does not tell."""
    try:
        return float(table.call(uuid, "nvmlDeviceGetPowerUsage")) / 1000
    except ActuatorError:
        return None
