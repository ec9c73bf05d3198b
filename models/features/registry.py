"""The table of features. Adding one is adding an entry; stream, offline store and documentation follow."""

from __future__ import annotations

from typing import Final

from models.features import activity, energy, power, thermal
from models.features.definition import FeatureDef
from models.features.window import Floats, Windows

FEATURES: Final = (
    FeatureDef("power_w_mean_60s", "W", 60.0, ("power_w",), "mean(power_w)", power.power_w_mean_60s),
    FeatureDef("power_w_last", "W", 0.0, ("power_w",), "power_w of the newest sample", power.power_w_last),
    FeatureDef(
        "energy_j_delta",
        "J",
        60.0,
        ("energy_mj",),
        "(energy_mj - energy_mj of the sample before) / 1000, null unless 0 <= delta <= 3000 W x time",
        energy.energy_j_delta,
    ),
    FeatureDef(
        "waste_w",
        "W",
        60.0,
        ("power_w", "util_ratio"),
        "mean(max(0, power_w - 35) where util_ratio <= 0.05, else 0)",
        power.waste_w,
        source="idle draw: Lei et al., arXiv 2604.04745",
    ),
    FeatureDef(
        "j_per_token_60s",
        "J/token",
        60.0,
        ("energy_mj", "tokens"),
        "energy of the GPU / (generated tokens of its engine / GPUs of its engine)",
        energy.j_per_token_60s,
    ),
    FeatureDef(
        "throttle_ratio_60s",
        "1",
        60.0,
        ("throttle",),
        "share of samples with a power cap, thermal or power brake reason",
        activity.throttle_ratio_60s,
        source="nvml.h, nvmlClocksEventReason*",
    ),
    FeatureDef(
        "temp_slope_c_per_min",
        "C/min",
        60.0,
        ("temp_c",),
        "least-squares slope of temp_c over time, null below 10 samples",
        thermal.temp_slope_c_per_min,
    ),
    FeatureDef("util_ratio_mean_60s", "1", 60.0, ("util_ratio",), "mean(util_ratio)", activity.util_ratio_mean_60s),
    FeatureDef("sm_mhz_mean_60s", "MHz", 60.0, ("sm_mhz",), "mean(sm_mhz)", activity.sm_mhz_mean_60s),
)
BY_NAME: Final = {feature.name: feature for feature in FEATURES}


def compute_all(window: Windows) -> dict[str, Floats]:
    """Every registered feature of every GPU, in the order of the table."""
    return {feature.name: feature.compute(window) for feature in FEATURES}
