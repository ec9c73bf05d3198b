"""Scalar equations of a serving stack on floats: seconds and watts of one iteration at a clock. One source for all.

The node agent runs these functions as they are, the bench compiles the very same source (models.bench.compiled). They
may therefore use nothing but floats, tuples and `math`. x is the SM clock as a share of the device's highest.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

SOLVER_STEPS = 10
SOLVED_W = 0.05  # this close below the limit is good enough; mostly reached in four steps


class Plant(NamedTuple):
    """A stack and its device as floats. Names as in models.control.profiles."""

    x_min: float
    x_step: float
    static_w: float
    memory_w: float
    clock_w: float
    flop_w: float
    v_min: float
    x_knee: float
    idle_w: float
    idle_clock_w: float
    bandwidth_bytes_s: float
    flop_s: float
    limit_w: float
    weight_bytes: float
    kv_bytes_per_token: float
    flop_per_token: float
    bandwidth_share: float
    flop_share: float
    overhead_s: float
    sequence_s: float
    x0: float
    phi: float
    chunk_tokens: float
    min_prefill_tokens: float
    kv_limit_tokens: float
    max_sequences: float
    long_output_tokens: float
    gpus: float
    # Derived once, because divisions are what an iteration costs.
    weight_s: float  # weights at peak bandwidth
    kv_token_s: float
    flop_token_s: float  # one token at peak rate
    memory_inverse: float  # 1 / bandwidth_share
    flop_inverse: float  # 1 / flop_share
    x0_power4: float
    x0_inverse4: float  # 1 / (1 + x0**4)


def clock_factor(p: Plant, x: float) -> float:
    """g(x) = x * v(x)**2: clock-dependent power relative to full clock."""
    v = p.v_min
    if x > p.x_knee:
        v += (1.0 - p.v_min) * (x - p.x_knee) / (1.0 - p.x_knee)
    return x * v * v


def overhead_s(p: Plant, x: float, running: float) -> float:
    """The part of an iteration that is neither memory nor compute."""
    return (p.overhead_s + p.sequence_s * running) * (1.0 - p.phi + p.phi / x)


def memory4(p: Plant, x: float, kv_tokens: float) -> float:
    """Fourth power of the memory time at clock x."""
    t_mem = (p.weight_s + kv_tokens * p.kv_token_s) * p.memory_inverse
    inverse = 1.0 / (x * x)
    mem2 = t_mem * t_mem
    return mem2 * mem2 * (1.0 + p.x0_power4 * inverse * inverse) * p.x0_inverse4


def iteration_s(p: Plant, x: float, running: float, kv_tokens: float, prefill_tokens: float) -> float:
    """Seconds of one iteration that decodes `running` sequences and prefills `prefill_tokens` prompt tokens."""
    inverse = 1.0 / x
    inverse2 = inverse * inverse
    t_comp = p.flop_token_s * p.flop_inverse * (running + prefill_tokens) * inverse
    t_mem = (p.weight_s + kv_tokens * p.kv_token_s) * p.memory_inverse
    comp2, mem2 = t_comp * t_comp, t_mem * t_mem
    mem4 = mem2 * mem2 * (1.0 + p.x0_power4 * inverse2 * inverse2) * p.x0_inverse4
    other = (p.overhead_s + p.sequence_s * running) * (1.0 - p.phi + p.phi * inverse)
    return other + sqrt(sqrt(mem4 + comp2 * comp2))


def prefill_fit(p: Plant, x: float, running: float, kv_tokens: float, t_s: float) -> float:
    """Most prompt tokens that an iteration of t_s seconds can prefill beside its running sequences; may be negative."""
    left = t_s - overhead_s(p, x, running)
    if left <= 0.0:
        return -running
    left2 = left * left
    room4 = left2 * left2 - memory4(p, x, kv_tokens)
    if room4 <= 0.0:
        return -running
    return sqrt(sqrt(room4)) * x / (p.flop_token_s * p.flop_inverse) - running


def board_w(p: Plant, x: float, running: float, kv_tokens: float, prefill_tokens: float, t_s: float) -> float:
    """Watts of one GPU during an iteration of t_s seconds at clock x."""
    inverse = 1.0 / t_s
    u_mem = (p.weight_s + kv_tokens * p.kv_token_s) * inverse
    if u_mem > 1.0:
        u_mem = 1.0
    u_flop = p.flop_token_s * (running + prefill_tokens) * inverse
    return p.static_w + p.memory_w * u_mem + (p.clock_w + p.flop_w * u_flop / x) * clock_factor(p, x)


def idle_w(p: Plant, x: float) -> float:
    """Watts of a GPU that holds a context and has nothing to do."""
    return p.idle_w + p.idle_clock_w * clock_factor(p, x)


def under_limit(
    p: Plant, x: float, running: float, kv_tokens: float, prefill_tokens: float, limit_w: float
) -> tuple[float, float, float]:
    """Clock, seconds and watts: the highest clock up to x that keeps the limit; at the clock floor it is not kept."""
    high_t = iteration_s(p, x, running, kv_tokens, prefill_tokens)
    high_w = board_w(p, x, running, kv_tokens, prefill_tokens, high_t)
    if high_w <= limit_w:
        return x, high_t, high_w
    high, above = x, high_w - limit_w
    low = min(p.x_min, x)
    low_t = iteration_s(p, low, running, kv_tokens, prefill_tokens)
    low_w = board_w(p, low, running, kv_tokens, prefill_tokens, low_t)
    below = min(low_w - limit_w, 0.0)
    side = 0
    for _ in range(SOLVER_STEPS):
        if limit_w - low_w < SOLVED_W:
            break
        middle = max(low, high - above * (high - low) / (above - below))
        t_s = iteration_s(p, middle, running, kv_tokens, prefill_tokens)
        watts = board_w(p, middle, running, kv_tokens, prefill_tokens, t_s)
        error = watts - limit_w
        if error <= 0.0:
            if side > 0:
                above *= 0.5
            low, low_t, low_w, below, side = middle, t_s, watts, error, 1
        else:
            if side < 0:
                below *= 0.5
            high, above, side = middle, error, -1
    return low, low_t, low_w
