"""Parameters of the twin that the controller's profile does not hold, and the variants that span what is not known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from models.control.profiles import LLAMA_70B_H100X4, StackProfile

# Idle board at one clock, 46 C after a load against 37 C before it: 1.05 W/K (models/twin/data/calibration.json). The
# interval is the spread of textbook subthreshold leakage, 0.5-1.5 % of static watts per kelvin at 100 W.
LEAKAGE: Final = {"low": 0.5, "mid": 1.0, "high": 1.5}

Kappa = Literal["low", "mid", "high"]
ClockLoss = Literal["low", "mid", "high"]

# static, memory, clock, flop watts: three splits that fit the same full-clock data. kappa = clock-dependent share of
# power at batch 8: 0.33, 0.49, 0.62. Bracket from other cards: H200 0.37-0.42, A100 about 0.5, RTX PRO 6000 above 0.7.
_KAPPA: Final[dict[Kappa, tuple[float, float, float, float]]] = {
    "low": (150.0, 230.0, 118.0, 995.0),
    "mid": (110.0, 180.0, 192.0, 930.0),
    "high": (85.0, 130.0, 251.0, 865.0),
}
# x0, phi: where bandwidth begins to fall with the clock, and the clock-dependent share of overheads.
_CLOCK_LOSS: Final[dict[ClockLoss, tuple[float, float]]] = {"low": (0.40, 0.2), "mid": (0.55, 0.5), "high": (0.65, 1.0)}


@dataclass(frozen=True, slots=True)
class ThermalParams:
    """Two stages: the die follows its power in half a second, the heat sink in minutes.

    Sum of the resistances: 0.072 K/W, measured on an RTX PRO 6000 (28 points). Die stage: 0.063 K/W and 0.5 s, fitted
    to raw A100 temperatures (rmse 0.8 K). Inlet, its spread and the sink's time are assumptions. Limits: H100 SXM as
    NVML lists them (software slowdown at the maximum operating temperature, hardware slowdown above).
    """

    inlet_c: float = 27.0
    inlet_spread_c: float = 2.0
    die_k_per_w: float = 0.063
    die_tau_s: float = 0.5
    sink_k_per_w: float = 0.009
    sink_tau_s: float = 150.0
    slowdown_c: float = 87.0
    slowdown_per_k: float = 0.03  # share of the clock given up per kelvin above
    hw_slowdown_c: float = 92.0
    hw_slowdown_x: float = 0.5
    # Watts for each kelvin of the die above leak_reference_c (below it: fewer). Off by default: the power constants
    # were fitted on runs at operating temperature. Seen on an A100: LEAKAGE.
    leak_w_per_k: float = 0.0
    leak_reference_c: float = 60.0


@dataclass(frozen=True, slots=True)
class SensorParams:
    """NVML power reading: mean of the last 25 ms, republished every 100 ms (refitted from raw A100 meter data)."""

    window_s: float = 0.025
    period_s: float = 0.100
    lag_s: float = 0.0  # between a window's end and its publication


@dataclass(frozen=True, slots=True)
class ActuationParams:
    """In-band actuation: a clock lock lands after 50-200 ms, a power limit settles in 3 s (three time constants)."""

    clock_delay_s: float = 0.1
    limit_tau_s: float = 1.0


@dataclass(frozen=True, slots=True)
class TwinParams:
    """Everything that the twin takes as true."""

    stack: StackProfile = LLAMA_70B_H100X4
    thermal: ThermalParams = field(default_factory=ThermalParams)
    sensor: SensorParams = field(default_factory=SensorParams)
    actuation: ActuationParams = field(default_factory=ActuationParams)
    power_spread: float = 0.02  # relative sigma of power between GPUs of one model (assumption)


def variant(
    *, kappa: Kappa = "mid", clock_loss: ClockLoss = "mid", leakage: Literal["none", "low", "mid", "high"] = "none"
) -> TwinParams:
    """The default parameters with one of the splits that public data cannot tell apart, with or without leakage."""
    static_w, memory_w, clock_w, flop_w = _KAPPA[kappa]
    device = replace(LLAMA_70B_H100X4.device, static_w=static_w, memory_w=memory_w, clock_w=clock_w, flop_w=flop_w)
    x0, phi = _CLOCK_LOSS[clock_loss]
    thermal = ThermalParams(leak_w_per_k=LEAKAGE.get(leakage, 0.0))
    return TwinParams(stack=replace(LLAMA_70B_H100X4, device=device, x0=x0, phi=phi), thermal=thermal)
