"""Seconds and watts of one iteration of a profile at a clock: models.control.equations by profile. For the node.

The same equations, vectorised, drive the twin (models.twin.device); a test holds the two to each other. x is the SM
clock as a share of the device's highest.
"""

from __future__ import annotations

from functools import lru_cache

from models.control import equations
from models.control.equations import Plant
from models.control.profiles import DeviceCurve, StackProfile


@lru_cache(maxsize=64)
def plant_of(stack: StackProfile) -> Plant:
    """The numbers of a profile as the floats that the equations take."""
    device = stack.device
    own = {
        "x_min": device.fmin_mhz / device.fmax_mhz,
        "x_step": device.step_mhz / device.fmax_mhz,
        "limit_w": device.limit_default_w,
        "weight_s": stack.weight_bytes / device.bandwidth_bytes_s,
        "kv_token_s": stack.kv_bytes_per_token / device.bandwidth_bytes_s,
        "flop_token_s": stack.flop_per_token / device.flop_s,
        "memory_inverse": 1.0 / stack.bandwidth_share,
        "flop_inverse": 1.0 / stack.flop_share,
        "x0_power4": stack.x0**4,
        "x0_inverse4": 1.0 / (1.0 + stack.x0**4),
    }
    names = [name for name in Plant._fields if name not in own]
    found = {name: float(getattr(device if hasattr(device, name) else stack, name)) for name in names}
    return Plant(**(own | found))


def clock_factor(curve: DeviceCurve, x: float) -> float:
    """g(x) = x * v(x)**2: clock-dependent power relative to full clock."""
    v = curve.v_min
    if x > curve.x_knee:
        v += (1.0 - curve.v_min) * (x - curve.x_knee) / (1.0 - curve.x_knee)
    return x * v * v


def iteration_s(stack: StackProfile, x: float, *, running: float, kv_tokens: float, prefill_tokens: float) -> float:
    """Seconds of one iteration that decodes `running` sequences and prefills `prefill_tokens` prompt tokens."""
    return equations.iteration_s(plant_of(stack), x, running, kv_tokens, prefill_tokens)


def board_w(
    stack: StackProfile, x: float, *, running: float, kv_tokens: float, prefill_tokens: float, t_s: float
) -> float:
    """Watts of one GPU during an iteration of t_s seconds at clock x."""
    return equations.board_w(plant_of(stack), x, running, kv_tokens, prefill_tokens, t_s)


def idle_w(curve: DeviceCurve, x: float) -> float:
    """Watts of a GPU that holds a context and has nothing to do."""
    return curve.idle_w + curve.idle_clock_w * clock_factor(curve, x)


def capped_clock(
    stack: StackProfile, x: float, *, running: float, kv_tokens: float, prefill_tokens: float, limit_w: float
) -> float:
    """Highest clock up to x whose watts keep the limit; at the clock floor the limit is no longer kept."""
    return equations.under_limit(plant_of(stack), x, running, kv_tokens, prefill_tokens, limit_w)[0]
