"""Which NVML call gives which column, and in which unit. Read calls only; each answers a value or None.

NVML speaks milliwatts, millijoules, MHz, percent and bytes; the contract speaks watts, millijoules, MHz, ratios and
megabytes (10**6 bytes). Converted here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from streams.contract.records import GpuState

Read = Callable[[Any, Any], dict[str, Any]]


@dataclass(slots=True)
class Device:
    """One GPU by UUID: its handle of this session, what it answers and what it never will."""

    uuid: str
    handle: Any
    state: GpuState = "ok"
    library_gone: bool = False
    known: set[str] = field(default_factory=set)
    unsupported: set[int] = field(default_factory=set)  # positions in READS

    def renew(self, handle: Any) -> None:
        """Takes a new session's handle; None = the GPU does not answer."""
        self.handle, self.library_gone = handle, False
        self.state = "lost" if handle is None else "ok"
        self.unsupported.clear()


def text(value: Any) -> str:
    """Names and UUIDs: old bindings give bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _name(lib: Any, h: Any) -> dict[str, Any]:
    return {"name": text(lib.nvmlDeviceGetName(h))}


def _power(lib: Any, h: Any) -> dict[str, Any]:
    return {"power_w": lib.nvmlDeviceGetPowerUsage(h) / 1000}


def _energy(lib: Any, h: Any) -> dict[str, Any]:
    return {"energy_mj": lib.nvmlDeviceGetTotalEnergyConsumption(h)}


def _limit(lib: Any, h: Any) -> dict[str, Any]:
    return {"limit_w": lib.nvmlDeviceGetEnforcedPowerLimit(h) / 1000}


def _limit_default(lib: Any, h: Any) -> dict[str, Any]:
    return {"limit_default_w": lib.nvmlDeviceGetPowerManagementDefaultLimit(h) / 1000}


def _limit_range(lib: Any, h: Any) -> dict[str, Any]:
    low, high = lib.nvmlDeviceGetPowerManagementLimitConstraints(h)
    return {"limit_min_w": low / 1000, "limit_max_w": high / 1000}


def _sm_clock(lib: Any, h: Any) -> dict[str, Any]:
    return {"sm_mhz": lib.nvmlDeviceGetClockInfo(h, lib.NVML_CLOCK_SM)}


def _sm_max(lib: Any, h: Any) -> dict[str, Any]:
    return {"sm_max_mhz": lib.nvmlDeviceGetMaxClockInfo(h, lib.NVML_CLOCK_SM)}


def _mem_clock(lib: Any, h: Any) -> dict[str, Any]:
    return {"mem_mhz": lib.nvmlDeviceGetClockInfo(h, lib.NVML_CLOCK_MEM)}


def _utilisation(lib: Any, h: Any) -> dict[str, Any]:
    rates = lib.nvmlDeviceGetUtilizationRates(h)
    return {"util_ratio": rates.gpu / 100, "mem_util_ratio": rates.memory / 100}


def _memory(lib: Any, h: Any) -> dict[str, Any]:
    info = lib.nvmlDeviceGetMemoryInfo(h)
    return {"mem_used_mb": info.used / 1e6, "mem_total_mb": info.total / 1e6}


def _temperature(lib: Any, h: Any) -> dict[str, Any]:
    try:
        return {"temp_c": float(lib.nvmlDeviceGetTemperatureV(h, lib.NVML_TEMPERATURE_GPU))}
    except (lib.NVMLError, lib.NVMLLibraryMismatchError, AttributeError) as error:
        if kind(lib, error) == "lost":
            raise
        return {"temp_c": float(lib.nvmlDeviceGetTemperature(h, lib.NVML_TEMPERATURE_GPU))}


def _memory_temperature(lib: Any, h: Any) -> dict[str, Any]:
    (value,) = lib.nvmlDeviceGetFieldValues(h, [lib.NVML_FI_DEV_MEMORY_TEMP])
    if value.nvmlReturn != 0:
        raise lib.NVMLError(value.nvmlReturn)
    # 0 degrees is the driver's way to say that this memory has no sensor.
    return {"mem_temp_c": float(value.value.uiVal) or None}


def _event_reasons(lib: Any, h: Any) -> dict[str, Any]:
    try:
        return {"throttle": lib.nvmlDeviceGetCurrentClocksEventReasons(h)}
    except (lib.NVMLError, lib.NVMLLibraryMismatchError, AttributeError) as error:
        if kind(lib, error) == "lost":
            raise
        return {"throttle": lib.nvmlDeviceGetCurrentClocksThrottleReasons(h)}


READS: Final[tuple[Read, ...]] = (
    _name,
    _power,
    _energy,
    _limit,
    _limit_default,
    _limit_range,
    _sm_clock,
    _sm_max,
    _mem_clock,
    _utilisation,
    _memory,
    _temperature,
    _memory_temperature,
    _event_reasons,
)
_ALWAYS: Final = (_name, _power)
COLUMNS: Final = (
    "name",
    "power_w",
    "energy_mj",
    "limit_w",
    "limit_default_w",
    "limit_min_w",
    "limit_max_w",
    "sm_mhz",
    "sm_max_mhz",
    "mem_mhz",
    "util_ratio",
    "mem_util_ratio",
    "mem_used_mb",
    "mem_total_mb",
    "temp_c",
    "mem_temp_c",
    "throttle",
)
# capability word -> the column that proves it
CAPABILITY: Final = (
    ("gpu.energy", "energy_mj"),
    ("gpu.power", "power_w"),
    ("gpu.limit", "limit_w"),
    ("gpu.clock", "sm_mhz"),
    ("gpu.utilisation", "util_ratio"),
    ("gpu.memory", "mem_used_mb"),
    ("gpu.temperature", "temp_c"),
    ("gpu.throttle", "throttle"),
)


def read(lib: Any, device: Device, errors: tuple[type[BaseException], ...]) -> dict[str, Any]:
    """One row of a GPU; empty when it is lost or forbidden. Never raises for a GPU's own trouble."""
    row: dict[str, Any] = {}
    if device.state != "ok":
        return row
    for position, call in enumerate(READS):
        if position in device.unsupported:
            continue
        try:
            row.update(call(lib, device.handle))
        except errors as error:
            match kind(lib, error):
                # An argument that every GPU knows is refused: the handle is of a session that has ended.
                case "lost" | "refused" if call in _ALWAYS or kind(lib, error) == "lost":
                    device.state, device.library_gone = "lost", _code(error) in _session_codes(lib)
                    return {}
                case "unsupported":
                    device.unsupported.add(position)
                case "forbidden" if call is _power:
                    device.state = "forbidden"
                    return row
    device.known.update(name for name, value in row.items() if value is not None)
    return row


def _code(error: BaseException) -> int | None:
    return getattr(error, "value", None)


def _session_codes(lib: Any) -> frozenset[int]:
    return frozenset(
        {lib.NVML_ERROR_UNINITIALIZED, lib.NVML_ERROR_DRIVER_NOT_LOADED, lib.NVML_ERROR_LIB_RM_VERSION_MISMATCH}
    )


def kind(lib: Any, error: BaseException) -> str:
    """Sorts an error: "lost" (handle or session is dead), "refused", "forbidden", "unsupported", "unknown"."""
    code = _code(error)
    if code in {lib.NVML_ERROR_GPU_IS_LOST, lib.NVML_ERROR_RESET_REQUIRED} or code in _session_codes(lib):
        return "lost"
    if code == lib.NVML_ERROR_INVALID_ARGUMENT:
        return "refused"
    if code == lib.NVML_ERROR_NO_PERMISSION:
        return "forbidden"
    never = {lib.NVML_ERROR_NOT_SUPPORTED, lib.NVML_ERROR_FUNCTION_NOT_FOUND, lib.NVML_ERROR_ARGUMENT_VERSION_MISMATCH}
    return "unsupported" if code is None or code in never else "unknown"


def explain(lib: Any, error: BaseException) -> str:
    """One sentence on why NVML cannot be used, with the next step."""
    texts = {
        lib.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not here; install the NVIDIA driver, or go on without",
        lib.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded; load it, or go on without GPUs",
        lib.NVML_ERROR_NO_PERMISSION: "NVML is forbidden to this user; give it access to /dev/nvidiactl",
        lib.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and driver differ in version; reboot or reload the driver",
        lib.NVML_ERROR_GPU_IS_LOST: "the GPU is lost; look into dmesg for its Xid and reset it",
    }
    return texts.get(_code(error) or -1, "NVML cannot be used")
