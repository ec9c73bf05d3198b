"""The GPU: clock and load to seconds and watts, vectorised (the scalar form is models.control.predict).

It must not know of queues or of time; arrays in, arrays out. x is the SM clock as a share of the device's highest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.control.profiles import DeviceCurve, StackProfile

Array = NDArray[np.float64]

# NVML clocks event reasons (nvml.h): what lowers the clock at this moment.
GPU_IDLE = 0x1
SW_POWER_CAP = 0x4
HW_SLOWDOWN = 0x8
SW_THERMAL = 0x20
HW_THERMAL = 0x40

_SOLVER_STEPS = 10
_SOLVED_W = 0.05  # this close below the limit is good enough; mostly reached in four steps


@dataclass(frozen=True, slots=True)
class Load:
    """One iteration per element: sequences that decode, tokens in the KV cache, prompt tokens prefilled."""

    running: Array
    kv_tokens: Array
    prefill_tokens: Array

    def take(self, rows: NDArray[np.intp]) -> Load:
        return Load(self.running[rows], self.kv_tokens[rows], self.prefill_tokens[rows])


def clock_factor(curve: DeviceCurve, x: Array) -> Array:
    """g(x) = x * v(x)**2: clock-dependent power relative to full clock."""
    return knee_factor(x, v_min=curve.v_min, x_knee=curve.x_knee)


def knee_factor(x: Array, *, v_min: float, x_knee: float) -> Array:
    """The same for any pair of minimal voltage and knee: fits try many."""
    v = v_min + (1.0 - v_min) / (1.0 - x_knee) * np.maximum(x - x_knee, 0.0)
    return x * v * v


def idle_w(curve: DeviceCurve, x: Array) -> Array:
    """Watts of a GPU that holds a context and has nothing to do."""
    return curve.idle_w + curve.idle_clock_w * clock_factor(curve, x)


def full_load_w(curve: DeviceCurve, x: Array) -> Array:
    """Watts of a GPU whose every unit is busy at clock x, before any limit: `price` with all shares at 1."""
    return curve.static_w + curve.memory_w + (curve.clock_w + curve.flop_w) * clock_factor(curve, x)


@dataclass(frozen=True, slots=True)
class Demand:
    """What an iteration asks of the device, independent of the clock: computed once, priced at any clock."""

    overhead_s: Array
    mem4: Array  # fourth power of the memory time at full clock
    comp_s: Array  # compute time at full clock
    mem_s: Array  # bytes / peak bandwidth
    flop_s: Array  # FLOP / peak rate

    def take(self, rows: NDArray[np.intp]) -> Demand:
        return Demand(self.overhead_s[rows], self.mem4[rows], self.comp_s[rows], self.mem_s[rows], self.flop_s[rows])


def demand(stack: StackProfile, load: Load) -> Demand:
    """Times of an iteration's parts at full clock."""
    device = stack.device
    mem_s = (stack.weight_bytes + load.kv_tokens * stack.kv_bytes_per_token) / device.bandwidth_bytes_s
    flop_s = (load.running + load.prefill_tokens) * (stack.flop_per_token / device.flop_s)
    mem2 = (mem_s / stack.bandwidth_share) ** 2
    floor = stack.x0**4
    return Demand(
        overhead_s=stack.overhead_s + stack.sequence_s * load.running,
        mem4=mem2 * mem2 / (1.0 + floor),
        comp_s=flop_s / stack.flop_share,
        mem_s=mem_s,
        flop_s=flop_s,
    )


def price(stack: StackProfile, need: Demand, x: Array) -> tuple[Array, Array]:
    """Seconds of the iteration and watts of one GPU at clock x."""
    inverse = 1.0 / x
    low2 = (stack.x0 * inverse) ** 2
    comp2 = (need.comp_s * inverse) ** 2
    t_s = need.overhead_s * (1.0 - stack.phi + stack.phi * inverse)
    t_s += np.sqrt(np.sqrt(need.mem4 * (1.0 + low2 * low2) + comp2 * comp2))
    device = stack.device
    u_mem = np.minimum(need.mem_s / t_s, 1.0)
    dynamic = device.clock_w + device.flop_w * (need.flop_s / t_s) * inverse
    watts = device.static_w + device.memory_w * u_mem + dynamic * clock_factor(device, x)
    return t_s, watts


def capped(stack: StackProfile, load: Load, *, x: Array, cap_w: Array) -> tuple[Array, Array, Array]:
    """Clock, seconds and watts under a power limit: the highest clock up to x whose watts keep it.

    At the clock floor the limit is no longer kept, as on real boards.
    """
    need = demand(stack, load)
    t_s, watts = price(stack, need, x)
    over = np.flatnonzero(watts > cap_w)
    if over.size == 0:
        return x, t_s, watts
    clock = x.copy()
    clock[over], t_s[over], watts[over] = _solve(
        stack, need.take(over), high=x[over], high_w=watts[over], cap_w=cap_w[over]
    )
    return clock, t_s, watts


def _solve(
    stack: StackProfile, need: Demand, *, high: Array, high_w: Array, cap_w: Array
) -> tuple[Array, Array, Array]:
    """Illinois steps on watts(x) = cap between the clock floor and `high`; ends on the side that keeps the limit."""
    low = np.minimum(stack.device.fmin_mhz / stack.device.fmax_mhz, high)
    low_t, low_w = price(stack, need, low)
    below, above = np.minimum(low_w - cap_w, 0.0), high_w - cap_w
    side = np.zeros(high.shape, dtype=np.int8)
    for _ in range(_SOLVER_STEPS):
        solved = cap_w - low_w < _SOLVED_W
        if solved.all():
            break
        # A solved row stays where it is, so that its result does not depend on who is solved beside it.
        x = np.where(solved, low, np.maximum(low, high - above * (high - low) / (above - below)))
        t_s, watts = price(stack, need, x)
        error = watts - cap_w
        keeps = error <= 0.0
        above = np.where(keeps, np.where(side > 0, above * 0.5, above), error)
        below = np.where(keeps, error, np.where(side < 0, below * 0.5, below))
        high, low = np.where(keeps, high, x), np.where(keeps, x, low)
        low_t, low_w = np.where(keeps, t_s, low_t), np.where(keeps, watts, low_w)
        side = np.where(keeps, 1, -1)
    return low, low_t, low_w
