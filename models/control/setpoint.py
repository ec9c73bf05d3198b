"""The set point: clock and chunk that cost least at the mean load among those that keep every bound.

On floats, like `decide`, which takes it when the backlog does not ask for more; the bench compiles this source too.
"""

from __future__ import annotations

from math import exp, floor, inf, log
from typing import Final

from models.control.equations import Plant, iteration_s, prefill_fit, under_limit
from models.control.learn import PRICE_MIN, flow_of, room_of, short, slack_of
from models.control.memory import (
    PRICE_FIRST,
    S_DECODE,
    S_GAP_COUNT,
    S_KV,
    S_LEAST,
    S_PLAN_CHUNK,
    S_PLAN_WHY,
    S_PLAN_X,
    S_PLANNED,
    S_PREFILL,
    S_PRICE,
    S_PRICED,
    S_RATE,
    S_RUNNING,
    S_TOP,
    S_X,
    Bounds,
    Load,
    Tuning,
)
from models.control.steady import SEATS_MAX, steady

# Why the clock is what it is.
LOWEST: Final = 0
WAIT: Final = 1
TBT: Final = 2
TTFT: Final = 3
GAP: Final = 4
DRIFT: Final = 5
BOUNDS: Final = 6

HOPELESS: Final = 1.25  # a mean gap at default clocks so far over its target is not made up for in the next lull
PRICE_DEAR: Final = 20_000.0  # the highest that the model may begin with
PRICE_FROM: Final = 200.0  # gaps measured before they take over
CHUNK_STEP: Final = 32.0  # tokens, between the chunks that are tried


def chunk_at(p: Plant, u: Tuning, x: float, running: float, kv: float, tbt_s: float) -> float:
    """The largest chunk whose full iteration keeps the bound at clock x, where the engine takes one."""
    if u.chunk_max <= 0.0:
        return p.chunk_tokens
    if not tbt_s < 1e6:
        return u.chunk_max
    return min(u.chunk_max, max(u.chunk_min, floor(running + prefill_fit(p, x, running, kv, tbt_s))))


def limited_s(p: Plant, load: Load, chunk: float) -> float:
    """Seconds of a full iteration with this chunk at default clocks: the power limit lets none be shorter."""
    running = load.running + 1.0
    _, t_s, _ = under_limit(p, 1.0, running, load.kv, room_of(p, chunk, running), p.limit_w)
    return t_s


def longest_s(p: Plant, s: list[float], load: Load) -> float:
    """Seconds of a decode iteration at which the load of now, which takes its time from the clock of now, fills the
    engine.
    """
    running = load.running + 1.0
    # A mean that is far above what runs now is of a load that has gone, or of a number that could not be.
    seats, kv = min(s[S_RUNNING], 2.0 * running), min(s[S_KV], 2.0 * load.kv)
    filled = max(seats / p.max_sequences, kv / p.kv_limit_tokens)
    return SEATS_MAX / max(filled, 1e-9) * s[S_DECODE] * iteration_s(p, s[S_X], running, load.kv, 0.0)


def holds(
    p: Plant,
    u: Tuning,
    s: list[float],
    load: Load,
    to: Bounds,
    x: float,
    chunk: float,
    shortest_s: float,
    full_s: float,
) -> int:
    """LOWEST when a clock and a chunk keep every bound at the mean load, otherwise which one they break."""
    running = load.running + 1.0
    room = room_of(p, chunk, running)
    mixed = s[S_PREFILL] * max(shortest_s, iteration_s(p, x, running, load.kv, room))
    decode = s[S_DECODE] * iteration_s(p, x, running, load.kv, 0.0)
    if not max(mixed, decode) <= to.tbt_s * 1.0005:
        return TBT
    if decode > full_s:
        return WAIT
    rate = room / mixed
    if to.ttft_s < inf:
        left = (to.ttft_s - s[S_LEAST]) * min(1.0, slack_of(s))
        slack = max(u.slack_ratio * slack_of(s) * to.ttft_s, left)
        if u.react_s * (1.0 - rate / s[S_TOP]) > slack:
            return TTFT
        if s[S_RATE] > u.busy_max * rate:
            return WAIT
    return LOWEST


def lowest(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, chunk: float, low: float, steps: int) -> int:
    """Steps above `low` of the lowest clock that holds with this chunk; minus the broken bound when none does."""
    shortest_s = limited_s(p, load, chunk) if short(p, s) else 0.0
    full_s = longest_s(p, s, load)
    broken = holds(p, u, s, load, to, low + steps * p.x_step, chunk, shortest_s, full_s)
    if broken != LOWEST:
        return -broken
    first, last = 0, steps
    while first < last:
        middle = (first + last) // 2
        if holds(p, u, s, load, to, low + middle * p.x_step, chunk, shortest_s, full_s) == LOWEST:
            last = middle
        else:
            first = middle + 1
    return last


def plan(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, low: float, steps: int) -> None:
    """The clock and chunk that cost least at the mean load among those that keep every bound."""
    if to.gap_s < 1e6 and s[S_PRICED] <= 0.0:
        model_price(p, u, s, load, to, low, steps)
    chunks = 1 if u.chunk_max <= 0.0 else int((u.chunk_max - u.chunk_min) / CHUNK_STEP) + 1
    # Once a set point is known only its neighbours are tried: the load of 20 s moves slowly.
    near = int((s[S_PLAN_CHUNK] - u.chunk_min) / CHUNK_STEP + 0.5)
    known = s[S_PLANNED] > 0.0 and s[S_PLAN_WHY] == float(LOWEST)
    if known and chunks > 1:
        best(p, u, s, load, to, low, steps, max(0, near - 1), min(chunks, near + 2), 1)
    else:
        best(p, u, s, load, to, low, steps, 0, chunks, max(1, chunks // 6))
    if s[S_PLAN_WHY] == float(LOWEST) and to.gap_s < 1e6:
        top = steady(p, flow_of(s), low + steps * p.x_step, s[S_PLAN_CHUNK])
        if top.gap_s > HOPELESS * to.gap_s:
            s[S_PLAN_WHY] = float(GAP)


def best(
    p: Plant,
    u: Tuning,
    s: list[float],
    load: Load,
    to: Bounds,
    low: float,
    steps: int,
    first: int,
    last: int,
    stride: int,
) -> None:
    """Sets the plan to the cheapest of the chunks from `first` to before `last`, or to the bound that none keeps."""
    least, why = inf, TBT
    for k in range(first, last, stride):
        chunk = p.chunk_tokens if u.chunk_max <= 0.0 else u.chunk_min + k * CHUNK_STEP
        found = lowest(p, u, s, load, to, chunk, low, steps)
        if found < 0:
            why = max(why, -found)
            continue
        cost, step = worth(p, s, chunk, low, found, steps)
        if cost < least:
            least = cost
            s[S_PLAN_X], s[S_PLAN_CHUNK] = low + step * p.x_step, chunk
    s[S_PLAN_WHY] = float(LOWEST if least < inf else why)


def model_price(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, low: float, steps: int) -> None:
    """The least price at which the model keeps the mean gap; from then on the measured gap, if any, moves it."""
    cheap, dear = log(PRICE_MIN), log(PRICE_DEAR)
    chunks = 1 if u.chunk_max <= 0.0 else int((u.chunk_max - u.chunk_min) / CHUNK_STEP) + 1
    for _ in range(6):
        middle = 0.5 * (cheap + dear)
        s[S_PRICE] = exp(middle)
        best(p, u, s, load, to, low, steps, 0, chunks, max(1, chunks // 3))
        if s[S_PLAN_WHY] != float(LOWEST):
            s[S_PRICE] = PRICE_FIRST  # another bound is broken: the model is asked again with the next plan
            return
        if steady(p, flow_of(s), s[S_PLAN_X], s[S_PLAN_CHUNK]).gap_s > to.gap_s:
            cheap = middle
        else:
            dear = middle
    s[S_PRICE] = exp(dear)
    if s[S_GAP_COUNT] > PRICE_FROM:
        s[S_PRICED] = 1.0


def worth(p: Plant, s: list[float], chunk: float, low: float, first: int, steps: int) -> tuple[float, int]:
    """Least cost with this chunk and its step: watts of one GPU and the price of those who wait; from `first` up."""
    flow, stride = flow_of(s), max(1, steps // 12)
    at = steady(p, flow, low + first * p.x_step, chunk)
    least, step = at.gpu_w + s[S_PRICE] * at.running, first
    if s[S_PRICE] <= 0.0:
        return least, step
    k = first
    while k < steps:
        k = min(k + stride, steps)
        at = steady(p, flow, low + k * p.x_step, chunk)
        cost = at.gpu_w + s[S_PRICE] * at.running
        if cost >= least:
            break
        least, step = cost, k
    return least, step
