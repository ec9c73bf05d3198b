"""What is known of a GPU model where its own telemetry does not say: highest SM clock and default power limit.

Vendor data sheets and NVML listings. The device itself has the last word: the capper clamps to what NVML reports. A
model that is not in the table is granted nothing unless its bounds come with the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from models.policy.arbiter import Device

SIMULATED: Final = " (simulated)"  # what the twin's devices carry behind the name of the one that they imitate
DEVICES: Final[dict[str, Device]] = {
    "NVIDIA H100 80GB HBM3": Device(1980, 700.0, 200.0, 700.0),
    "NVIDIA H100 PCIe": Device(1755, 350.0, 200.0, 350.0),
    "NVIDIA H200": Device(1980, 700.0, 200.0, 700.0),
    "NVIDIA A100-SXM4-40GB": Device(1410, 400.0, 100.0, 400.0),
    "NVIDIA A100-SXM4-80GB": Device(1410, 400.0, 100.0, 400.0),
    "NVIDIA L40S": Device(2520, 350.0, 100.0, 350.0),
    "Tesla V100-SXM2-16GB": Device(1530, 300.0, 150.0, 300.0),
    "Tesla V100-SXM2-32GB": Device(1530, 300.0, 150.0, 300.0),
}


def device(name: str | None, reported: Mapping[str, float | None]) -> Device:
    """A GPU's bounds: what it reports (sm_max_mhz, limit_default_w, limit_min_w, limit_max_w) before the table."""
    known = DEVICES.get((name or "").removesuffix(SIMULATED), Device())
    clock = reported.get("sm_max_mhz")
    return Device(
        sm_max_mhz=int(clock) if clock else known.sm_max_mhz,
        limit_default_w=reported.get("limit_default_w") or known.limit_default_w,
        limit_min_w=reported.get("limit_min_w") or known.limit_min_w,
        limit_max_w=reported.get("limit_max_w") or known.limit_max_w,
    )
