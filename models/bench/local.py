"""Local policies of the bench, one control step for all replicas: ours (models.control.decide) and its rivals.

Compiled with the kernel. Each rival is named with its source in `rivals`; what it may see is what ours may see.
"""

from __future__ import annotations

from math import inf, log, nan, sqrt
from typing import Final, NamedTuple

from models.bench.state import (
    DRAINING,
    LOADING,
    O_ANSWERS,
    O_ARRIVED,
    O_COLUMNS,
    O_ENERGY,
    O_FIRSTS,
    O_LATE,
    O_LONG,
    O_LONGEST,
    O_PREFILL,
    O_SLOW,
    O_TBT_MAX,
    O_TOKEN_S,
    O_TOKENS,
    O_TTFT_MAX,
    ON,
    Sim,
)
from models.control.decide import decide
from models.control.equations import Plant, iteration_s
from models.control.learn import room_of
from models.control.memory import Bounds, Load, Tuning

STATIC: Final = 0
PID: Final = 1
AIMD: Final = 2
OURS: Final = 3
UCB: Final = 4
SEARCH: Final = 5  # throttLL'eM
PHASES: Final = 6  # GreenLLM
PROFILE: Final = 7  # DynamoLLM
LIMIT: Final = 8

LEVELS: Final = 10  # of the bandit
LOADS: Final = 8


class Local(NamedTuple):
    """A local policy and its numbers; a, b, c, d mean what the policy's function says."""

    kind: int
    tick_s: float
    delay_s: float
    slow_gap_s: float  # what counts as a slow gap in its observations
    phase_x: float  # above 0: clock of pure decode iterations (needs a disaggregated engine: reference only)
    min_x: float
    tbt_s: float
    ttft_s: float
    gap_s: float
    tune: Tuning
    wake: float = 0.0  # above 0: ours also steps when a request arrives, because the engine says so
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    late_s: float = 0.0  # above 0: first tokens later than this may be one in a hundred
    long_s: float = 0.0  # the same of whole answers


def ask(sim: Sim, r: int, x: float, chunk: float, now_s: float, delay_s: float) -> None:
    """A new wish; one that is still on its way lands when the first of its changes would have."""
    goal_x = sim.next_x[r] if sim.next_x[r] > 0.0 else sim.x[r]
    goal_chunk = sim.next_chunk[r] if sim.next_x[r] > 0.0 else sim.chunk[r]
    if abs(goal_x - x) < 1e-9 and goal_chunk == chunk:
        return
    if sim.next_x[r] <= 0.0:
        sim.lands_s[r] = now_s + delay_s
    sim.next_x[r] = x
    sim.next_chunk[r] = chunk


def control(sim: Sim, p: Plant, how: Local, now_s: float) -> None:
    """One step of the policy on every replica that serves."""
    for r in range(sim.t.shape[0]):
        if sim.state[r] == ON or sim.state[r] == DRAINING:
            if how.kind == OURS:
                ours(sim, p, how, r, now_s)
            elif how.kind == PID:
                pid(sim, p, how, r, now_s)
            elif how.kind == LIMIT:
                sim.limit_w[r] = how.a
            elif how.kind == AIMD:
                aimd(sim, p, how, r, now_s)
            elif how.kind == UCB:
                bandit(sim, p, how, r, now_s)
            elif how.kind == SEARCH:
                search(sim, p, how, r, now_s)
            elif how.kind == PHASES:
                phases(sim, p, how, r, now_s)
            elif how.kind == PROFILE:
                profile(sim, p, how, r, now_s)
        for column in range(O_COLUMNS):
            sim.obs[r, column] = 0.0


def wake(sim: Sim, p: Plant, how: Local, r: int, now_s: float) -> None:
    """A step out of turn for the replica that a request has just joined."""
    if how.kind != OURS or how.wake <= 0.0 or sim.state[r] > DRAINING or sim.state[r] == LOADING:
        return
    ours(sim, p, how, r, now_s)
    for column in range(O_COLUMNS):
        sim.obs[r, column] = 0.0


def ours(sim: Sim, p: Plant, how: Local, r: int, now_s: float) -> None:
    """The product's own controller on what the engine shows."""
    obs = sim.obs[r]
    tokens = obs[O_TOKENS]
    load = Load(
        sim.running[r],
        sim.queued[r],
        sim.kv[r],
        obs[O_PREFILL],
        obs[O_LONGEST],
        tokens,
        obs[O_TOKEN_S] / tokens if tokens > 0.0 else nan,
        obs[O_TBT_MAX] if tokens > 0.0 else nan,
        sim.x[r],
        nan,
        obs[O_FIRSTS] if how.late_s > 0.0 else nan,
        obs[O_LATE],
        obs[O_ANSWERS] if how.long_s > 0.0 else nan,
        obs[O_LONG],
        tokens if how.late_s > 0.0 else nan,
        obs[O_SLOW],
    )
    to = Bounds(how.tbt_s, how.ttft_s, how.gap_s, how.min_x, 1.0, 1.0)
    x, chunk, _ = decide(p, how.tune, sim.ctl[r], load, to, now_s)
    ask(sim, r, x, chunk, now_s, how.delay_s)


def pid(sim: Sim, p: Plant, how: Local, r: int, now_s: float) -> None:
    """PID on a power target: a = watts, b, c, d = gains. Blind to latency, shown as what it is."""
    error = sim.obs[r, O_ENERGY] / how.tick_s - how.a
    ctl = sim.ctl[r]
    ctl[0] = min(300.0, max(-300.0, ctl[0] + how.c * error * how.tick_s))
    change = how.b * error + ctl[0] + how.d * (error - ctl[1]) / how.tick_s
    ctl[1] = error
    sim.limit_w[r] = min(p.limit_w, max(200.0, p.limit_w - change))


def aimd(sim: Sim, p: Plant, how: Local, r: int, now_s: float) -> None:
    """Additive decrease of the clock while latency is fine, release when it is not: a = step, b = tolerated share."""
    obs = sim.obs[r]
    share = obs[O_SLOW] / obs[O_TOKENS] if obs[O_TOKENS] > 0.0 else 0.0
    x = sim.x[r]
    if share > how.b or obs[O_TTFT_MAX] > how.ttft_s:
        x = min(1.0, x + 5.0 * how.a) if obs[O_TTFT_MAX] <= how.ttft_s else 1.0
    elif share < 0.5 * how.b and obs[O_TTFT_MAX] < 0.7 * how.ttft_s:
        x = max(how.min_x, x - how.a)
    ask(sim, r, x, sim.chunk[r], now_s, how.delay_s)


def bandit(sim: Sim, p: Plant, how: Local, r: int, now_s: float) -> None:
    """UCB over clocks per load bin, unshielded: a = width, b = J/token scale, c = penalty. After EnergyUCB."""
    obs, arms = sim.obs[r], sim.arms[r]
    tokens = obs[O_TOKENS] + 0.25 * obs[O_PREFILL]
    context, arm = int(sim.ctl[r, 0]), int(sim.ctl[r, 1])
    if tokens > 0.0 and sim.ctl[r, 2] > 0.0:
        reward = -4.0 * obs[O_ENERGY] / tokens / how.b
        if obs[O_SLOW] > 0.01 * max(obs[O_TOKENS], 1.0) or obs[O_TTFT_MAX] > how.ttft_s:
            reward -= how.c
        at = 2 * (context * LEVELS + arm)
        arms[at] += 1.0
        arms[at + 1] += (reward - arms[at + 1]) / arms[at]
    context = min(LOADS - 1, int(sim.running[r] / 8.0))
    total = 1.0
    for k in range(LEVELS):
        total += arms[2 * (context * LEVELS + k)]
    best, value = LEVELS - 1, -inf
    for k in range(LEVELS):
        at = 2 * (context * LEVELS + k)
        score = 1e9 + k if arms[at] == 0.0 else arms[at + 1] + how.a * sqrt(log(total) / arms[at])
        if score > value:
            best, value = k, score
    sim.ctl[r, 0], sim.ctl[r, 1], sim.ctl[r, 2] = float(context), float(best), 1.0
    x = how.min_x + (1.0 - how.min_x) * best / (LEVELS - 1)
    ask(sim, r, x, sim.chunk[r], now_s, how.delay_s)


def search(sim: Sim, p: Plant, how: Local, r: int, now_s: float) -> None:
    """throttLL'eM: project batch and KV, bisect for the lowest clock that keeps the SLOs. a = projected growth."""
    running = sim.running[r] * how.a + 1.0
    kv = sim.kv[r] * how.a + sim.queued[r]
    room = room_of(p, sim.chunk[r], running)
    low, high = int(how.min_x / p.x_step + 0.999), int(1.0 / p.x_step + 1e-6)
    while low < high:
        middle = (low + high) // 2
        mixed = iteration_s(p, middle * p.x_step, running, kv, room)
        wait = sim.queued[r] / room * mixed
        if mixed <= how.tbt_s and wait <= how.b * how.ttft_s:
            high = middle
        else:
            low = middle + 1
    ask(sim, r, min(1.0, high * p.x_step), sim.chunk[r], now_s, how.delay_s)


def phases(sim: Sim, p: Plant, how: Local, r: int, now_s: float) -> None:
    """GreenLLM: prefill clock from the queue, decode clock by a loop on the gap with 15 MHz steps and hysteresis.

    Its paper gives each phase its own GPUs; on colocated engines the higher of the two wishes is set. a = band.
    """
    room = room_of(p, sim.chunk[r], sim.running[r])
    need = 0.0
    if sim.queued[r] > 0.0:
        need = 1.0
        for k in range(int(how.min_x / p.x_step + 0.999), int(1.0 / p.x_step) + 1):
            x = k * p.x_step
            if sim.queued[r] / room * iteration_s(p, x, sim.running[r], sim.kv[r], room) <= how.b * how.ttft_s:
                need = x
                break
    ctl = sim.ctl[r]
    if ctl[0] <= 0.0:
        ctl[0] = 1.0
    tail = sim.obs[r, O_TBT_MAX]
    if tail > how.tbt_s:
        ctl[0] = min(1.0, ctl[0] + 4.0 * p.x_step)
    elif 0.0 < tail < how.a * how.tbt_s:
        ctl[0] = max(how.min_x, ctl[0] - p.x_step)
    ask(sim, r, max(need, ctl[0]), sim.chunk[r], now_s, how.delay_s)


def profile(sim: Sim, p: Plant, how: Local, r: int, now_s: float) -> None:
    """DynamoLLM: every 5 s the clock that the profile gives for the load of the last period. a = head-room."""
    rate = how.a * sim.obs[r, O_ARRIVED] / how.tick_s
    sim.ctl[r, 0] += 0.5 * (rate - sim.ctl[r, 0])
    rate = max(rate, sim.ctl[r, 0])
    running = sim.running[r] * how.a + 1.0
    room = room_of(p, sim.chunk[r], running)
    found = 1.0
    for k in range(int(how.min_x / p.x_step + 0.999), int(1.0 / p.x_step) + 1):
        x = k * p.x_step
        mixed = iteration_s(p, x, running, sim.kv[r], room)
        busy = rate / room * mixed
        if mixed <= how.tbt_s and busy < 0.85 and mixed * (sim.ctl[r, 3] / room) / (1.0 - busy) <= how.ttft_s:
            found = x
            break
    sim.ctl[r, 3] = max(sim.obs[r, O_LONGEST], 0.98 * sim.ctl[r, 3])
    ask(sim, r, found, sim.chunk[r], now_s, how.delay_s)
