"""Features of activity: how busy, how fast, how often held back."""

from __future__ import annotations

from models.features.window import Floats, Windows, count, mean, ratio


def util_ratio_mean_60s(window: Windows) -> Floats:
    """Mean share of time with a kernel resident, 0..1."""
    return mean(window, "util_ratio")


def sm_mhz_mean_60s(window: Windows) -> Floats:
    """Mean SM clock, MHz."""
    return mean(window, "sm_mhz")


def throttle_ratio_60s(window: Windows) -> Floats:
    """Share of the known samples in which a cap, heat or the power brake held the clock down, 0..1."""
    return ratio(window.sum("throttled"), count(window, "throttle"))
