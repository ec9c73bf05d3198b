"""Scalar equations of a serving stack: seconds and watts of one iteration at a clock. Plain Python, for the node.

The same equations, vectorised, drive the twin (models.twin.device); a test holds the two to each other. x is the SM
clock as a share of the device's highest.
"""

from __future__ import annotations

from math import sqrt

from models.control.profiles import DeviceCurve, StackProfile

_BISECTIONS = 12  # to a 4,000th of the range: finer than the device's clock grid


def clock_factor(curve: DeviceCurve, x: float) -> float:
    """g(x) = x * v(x)**2: clock-dependent power relative to full clock."""
    v = curve.v_min
    if x > curve.x_knee:
        v += (1.0 - curve.v_min) * (x - curve.x_knee) / (1.0 - curve.x_knee)
    return x * v * v


def iteration_s(stack: StackProfile, x: float, *, running: float, kv_tokens: float, prefill_tokens: float) -> float:
    """Seconds of one iteration that decodes `running` sequences and prefills `prefill_tokens` prompt tokens."""
    device = stack.device
    t_mem = (stack.weight_bytes + kv_tokens * stack.kv_bytes_per_token) / (
        device.bandwidth_bytes_s * stack.bandwidth_share
    )
    t_comp = stack.flop_per_token * (running + prefill_tokens) / (device.flop_s * stack.flop_share)
    inverse = 1.0 / x
    ratio = (stack.x0 * inverse) ** 2
    floor = stack.x0**2
    slower = 1.0 - stack.phi + stack.phi * inverse
    mem4 = t_mem**4 * (1.0 + ratio * ratio) / (1.0 + floor * floor)
    comp4 = (t_comp * inverse) ** 4
    return (stack.overhead_s + stack.sequence_s * running) * slower + sqrt(sqrt(mem4 + comp4))


def board_w(
    stack: StackProfile, x: float, *, running: float, kv_tokens: float, prefill_tokens: float, t_s: float
) -> float:
    """Watts of one GPU during an iteration of t_s seconds at clock x."""
    device = stack.device
    moved = stack.weight_bytes + kv_tokens * stack.kv_bytes_per_token
    u_mem = min(1.0, moved / (device.bandwidth_bytes_s * t_s))
    u_flop = stack.flop_per_token * (running + prefill_tokens) / (device.flop_s * t_s)
    return (
        device.static_w
        + device.memory_w * u_mem
        + (device.clock_w + device.flop_w * u_flop / x) * clock_factor(device, x)
    )


def idle_w(curve: DeviceCurve, x: float) -> float:
    """Watts of a GPU that holds a context and has nothing to do."""
    return curve.idle_w + curve.idle_clock_w * clock_factor(curve, x)


def capped_clock(
    stack: StackProfile, x: float, *, running: float, kv_tokens: float, prefill_tokens: float, limit_w: float
) -> float:
    """Highest clock up to x whose watts keep the limit; at the clock floor the limit is no longer kept."""

    def keeps(clock: float) -> bool:
        t_s = iteration_s(stack, clock, running=running, kv_tokens=kv_tokens, prefill_tokens=prefill_tokens)
        watts = board_w(stack, clock, running=running, kv_tokens=kv_tokens, prefill_tokens=prefill_tokens, t_s=t_s)
        return watts <= limit_w

    if keeps(x):
        return x
    low, high = min(stack.device.fmin_mhz / stack.device.fmax_mhz, x), x
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if keeps(middle):
            low = middle
        else:
            high = middle
    return low
