"""A second, independent client of the library: plain ctypes, none of our code, none of NVML's Python bindings.

Run as a program it prints one JSON line: {uuid: {"limit_w": ..., "power_w": ..., "sm_mhz": ...}}; with two arguments
(uuid, watts) it first sets that limit, as any administrator's tool would.
"""

from __future__ import annotations

import ctypes
import json
import sys


def main(arguments: list[str]) -> int:
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    check(nvml.nvmlInit_v2())
    if arguments:
        check(
            nvml.nvmlDeviceSetPowerManagementLimit(by_uuid(nvml, arguments[0]), ctypes.c_uint(int(arguments[1]) * 1000))
        )
    count = ctypes.c_uint()
    check(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
    json.dump(dict(device(nvml, index) for index in range(count.value)), sys.stdout)
    return 0


def check(code: int) -> None:
    if code:
        raise SystemExit(f"NVML error {code}")


def by_uuid(nvml: ctypes.CDLL, uuid: str) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    check(nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)))
    return handle


def device(nvml: ctypes.CDLL, index: int) -> tuple[str, dict[str, float]]:
    handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    check(nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)))
    check(nvml.nvmlDeviceGetUUID(handle, text, 96))
    limit, power, clock = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    check(nvml.nvmlDeviceGetPowerManagementLimit(handle, ctypes.byref(limit)))
    check(nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(power)))
    check(nvml.nvmlDeviceGetClockInfo(handle, 1, ctypes.byref(clock)))
    values = {"limit_w": limit.value / 1000, "power_w": power.value / 1000, "sm_mhz": float(clock.value)}
    return text.value.decode(), values


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
