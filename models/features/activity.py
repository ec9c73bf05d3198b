"""Features of activity: how busy, how fast, how often held back."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.features.window import Floats, Window, count, mean, ratio

# NVML clock event reasons that hold a working GPU back: software power cap, hardware slowdown, software and hardware
# thermal slowdown, hardware power brake (nvml.h, nvmlClocksEventReason*). Idle and application clocks are none.
THROTTLED: Final = 0x04 | 0x08 | 0x20 | 0x40 | 0x80


def util_ratio_mean_60s(window: Window) -> Floats:
    """Mean share of time with a kernel resident, 0..1."""
    return mean(window, "util_ratio")


def sm_mhz_mean_60s(window: Window) -> Floats:
    """Mean SM clock, MHz."""
    return mean(window, "sm_mhz")


def throttle_ratio_60s(window: Window) -> Floats:
    """Share of the known samples in which a cap, heat or the power brake held the clock down, 0..1."""
    reasons = np.zeros(len(window.ts_ns))
    rows = np.flatnonzero(window.total("throttle"))  # the others have no reason at all
    reasons[rows] = count((window.filled("throttle")[rows].astype(np.int64) & THROTTLED) != 0)
    return ratio(reasons, window.count("throttle"))
