"""Calibrates the twin to one stack: ratios of time and of power against what was measured, one set per kappa variant.

Time: the median gap between tokens gives the decode ratio (most iterations only decode), its 99th percentile the
prefill ratio (one mixed iteration with a full chunk). Power: mean watts, once more for engines with nothing to do. A
ratio at its bound is said, never hidden: the check on the second part decides whether the twin may be used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from models.control.profiles import LLAMA_70B_H100X4, StackProfile
from models.twin.params import Kappa, TwinParams, variant
from models.twin.workload import Workload
from models.whatif.replay import Outcome, run
from models.whatif.series import Array, Bools, Machine, Series, quantile_ms

KAPPAS: Final[tuple[Kappa, ...]] = ("low", "mid", "high")
RATIO_MIN: Final = 0.1
RATIO_MAX: Final = 10.0
_ROUNDS: Final = 3
_CLOSE: Final = 0.01  # a histogram's bucket is 2.2 % wide
_IDLE_SLOTS: Final = 30


@dataclass(frozen=True, slots=True)
class Ratios:
    """Measured over predicted."""

    decode: float = 1.0
    prefill: float = 1.0
    power: float = 1.0
    idle: float | None = None  # None = no engine was seen idle: the power ratio stands in for it


def base(machine: Machine, profile: StackProfile | None, kappa: Kappa, *, kv_limit_tokens: float) -> StackProfile:
    """The stack before calibration: its own profile or, unknown, the shipped one with this machine's clocks and limits.

    Watts of another device are scaled by its default limit; what that leaves wrong the ratios and the check must find.
    """
    stack, device = profile or LLAMA_70B_H100X4, variant(kappa=kappa).stack.device
    scale = machine.limit_default_w / device.limit_default_w
    known = np.isfinite(kv_limit_tokens)
    return replace(
        stack,
        gpus=machine.gpus,
        kv_limit_tokens=int(kv_limit_tokens) if known else stack.kv_limit_tokens,
        device=replace(
            device,
            name=machine.name,
            fmax_mhz=machine.sm_max_mhz,
            fmin_mhz=device.fmin_mhz / device.fmax_mhz * machine.sm_max_mhz,
            static_w=device.static_w * scale,
            memory_w=device.memory_w * scale,
            clock_w=device.clock_w * scale,
            flop_w=device.flop_w * scale,
            idle_w=device.idle_w * scale,
            idle_clock_w=device.idle_clock_w * scale,
            limit_default_w=machine.limit_default_w,
            limit_min_w=machine.limit_min_w,
            limit_max_w=machine.limit_max_w,
        ),
    )


def apply(stack: StackProfile, ratios: Ratios) -> TwinParams:
    """The twin of the stack with its ratios: decode scales overheads and memory time, prefill the compute time."""
    device, idle = stack.device, ratios.power if ratios.idle is None else ratios.idle
    scaled = replace(
        device,
        static_w=device.static_w * ratios.power,
        memory_w=device.memory_w * ratios.power,
        clock_w=device.clock_w * ratios.power,
        flop_w=device.flop_w * ratios.power,
        idle_w=device.idle_w * idle,
        idle_clock_w=device.idle_clock_w * idle,
    )
    fitted = replace(
        stack,
        device=scaled,
        overhead_s=stack.overhead_s * ratios.decode,
        sequence_s=stack.sequence_s * ratios.decode,
        bandwidth_share=stack.bandwidth_share / ratios.decode,
        flop_share=stack.flop_share / ratios.prefill,
    )
    return TwinParams(stack=fitted)


def calibrate(series: Series, work: Workload, stack: StackProfile, *, slots: int, warm_s: float) -> Ratios:
    """Ratios from the first `slots` slots: the twin runs under the clocks and limits that were in force there."""
    settled = series.settled(warm_s)[:slots]
    ratios = Ratios(idle=_idle(series, stack, slots))
    for _ in range(_ROUNDS):
        seen = run(series, work, apply(stack, ratios), slots=slots)
        better = _better(series, seen, ratios, settled, slots)
        close = abs(better.decode / ratios.decode - 1) < _CLOSE and abs(better.prefill / ratios.prefill - 1) < _CLOSE
        ratios = better
        if close:
            break
    return ratios


def repower(
    series: Series, work: Workload, stack: StackProfile, times: Ratios, *, slots: int, warm_s: float
) -> tuple[Ratios, float]:
    """Power ratios of a kappa variant with times already fitted, and what is left: the engines' mean error."""
    settled = series.settled(warm_s)[:slots]
    ratios = replace(times, power=1.0, idle=_idle(series, stack, slots))
    seen = run(series, work, apply(stack, ratios), slots=slots)
    ratios = replace(ratios, power=_power(series, seen, settled, slots))
    measured, predicted = series.power_w[:, :slots][:, settled], seen.power_w[:, settled] * ratios.power
    return ratios, _spread(measured, predicted)


def _spread(measured: Array, predicted: Array) -> float:
    """Mean absolute error of engines' mean watts, relative."""
    kept = np.isfinite(measured)
    count = np.maximum(kept.sum(axis=1), 1)
    real = np.where(kept, measured, 0.0).sum(axis=1) / count
    twin = np.where(kept, predicted, 0.0).sum(axis=1) / count
    return float(np.mean(np.abs(twin - real)[real > 0] / real[real > 0])) if (real > 0).any() else float("nan")


def _better(series: Series, seen: Outcome, ratios: Ratios, settled: Bools, slots: int) -> Ratios:
    unused = np.zeros(series.slots - slots, dtype=np.bool_)
    measured = series.hits["tbt"].within(np.concatenate([settled, unused]))
    change = quantile_ms(measured, 0.5) / seen.quantile("tbt", settled, 0.5)
    tail = quantile_ms(measured, 0.99) / seen.quantile("tbt", settled, 0.99)
    return Ratios(
        decode=_bounded(ratios.decode * change),
        prefill=_bounded(ratios.prefill * tail),
        power=_bounded(ratios.power * _power(series, seen, settled, slots)),
        idle=ratios.idle,
    )


def _power(series: Series, seen: Outcome, settled: Bools, slots: int) -> float:
    measured, predicted = series.power_w[:, :slots][:, settled], seen.power_w[:, settled]
    known = np.isfinite(measured)
    return _bounded(float(measured[known].sum() / predicted[known].sum())) if known.any() else 1.0


def _idle(series: Series, stack: StackProfile, slots: int) -> float | None:
    """Measured over predicted watts of engines that had nothing to do in a slot nor in the one before."""
    empty = (series.running[:, :slots] == 0) & (np.nan_to_num(series.generated[:, :slots]) == 0)
    empty[:, 1:] &= empty[:, :-1].copy()
    empty[:, :1] = False
    values = series.power_w[:, :slots][empty & (series.lock_mhz[:, :slots] == 0)]
    values = values[np.isfinite(values)]
    if len(values) < _IDLE_SLOTS:
        return None
    return _bounded(float(values.mean()) / (stack.device.idle_w + stack.device.idle_clock_w))


def _bounded(ratio: float) -> float:
    return float(min(RATIO_MAX, max(RATIO_MIN, ratio))) if np.isfinite(ratio) else 1.0
