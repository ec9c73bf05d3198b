"""The local controller's arithmetic on floats: state and measurements in, clock and chunk size out. One source for all.

The node agent and the demo run these functions as they are (through `controller`), the bench compiles the very same
source. They may therefore use nothing but floats, tuples, `math` and a row of floats as memory. No words, no None: an
unknown measurement is NaN, an absent bound is infinite.
"""

from __future__ import annotations

from math import floor, inf

from models.control.equations import Plant, iteration_s
from models.control.learn import (
    chance,
    flow_of,
    follow,
    learn,
    reprice,
    room_of,
    short,
)
from models.control.memory import (
    S_CHANGED,
    S_CHUNK,
    S_CLEAN,
    S_DECODE,
    S_DONE,
    S_FIRST,
    S_GAP,
    S_GAP_COUNT,
    S_GAP_SUM,
    S_KEY,
    S_LEAST,
    S_LONG,
    S_NEXT,
    S_PLAN_CHUNK,
    S_PLAN_WHY,
    S_PLAN_X,
    S_PLANNED,
    S_PREFILL,
    S_PROVEN,
    S_RECALIBRATE,
    S_RING,
    S_STARTED,
    S_TIME,
    S_TOP,
    S_UNQUIET,
    S_URGENT,
    S_WAIT,
    S_WANTED,
    S_X,
    SNAPSHOTS,
    Bounds,
    Load,
    Tuning,
)
from models.control.setpoint import BOUNDS, DRIFT, GAP, LOWEST, TTFT, WAIT, chunk_at, plan
from models.control.steady import top_rate


def needed_rate(s: list[float], now_s: float, queued: float, ttft_s: float, u: Tuning) -> float:
    """Prefill tokens per second by which every waiting prompt still has its first token in time.

    Each snapshot says how many tokens had arrived by then; what is not prefilled of them is due at the bound's age.
    """
    need = 0.0
    for k in range(SNAPSHOTS):
        arrived = s[S_RING + 2 * k + 1]
        left = arrived - s[S_DONE]
        if left <= 0.5 or arrived <= 0.0:
            continue
        due = s[S_RING + 2 * k] + ttft_s * u.deadline_ratio - now_s
        need = max(need, min(left, queued) / max(due, 1e-3))
    return need


def remember(s: list[float], now_s: float, queued: float, ttft_s: float) -> None:
    """Adds a snapshot of what has arrived, not more often than the ring is long for."""
    last = (int(s[S_NEXT]) - 1) % SNAPSHOTS
    at = S_RING + 2 * last
    arrived = s[S_DONE] + queued
    if s[at + 1] > 0.0 and now_s - s[at] < ttft_s / (SNAPSHOTS - 2):
        # Too soon for a new one: what came since counts as arrived with the newest, which is the careful side.
        s[at + 1] = arrived
        return
    at = S_RING + 2 * int(s[S_NEXT])
    s[at] = now_s
    s[at + 1] = arrived
    s[S_NEXT] = float((int(s[S_NEXT]) + 1) % SNAPSHOTS)


def urgent(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, need: float, low: float, steps: int) -> float:
    """The lowest clock whose prefill rate meets the backlog's deadline; sets the chunk that goes with it.

    While the mean gap is above its target a smaller chunk at a higher clock is taken, if that meets the deadline.
    """
    running = load.running + 1.0
    highest = low + steps * p.x_step
    over = s[S_GAP_SUM] / max(s[S_GAP_COUNT], 1.0) / to.gap_s - 1.0 if to.gap_s < 1e6 else 0.0
    share = min(1.0, max(0.5, 1.0 - 4.0 * over))
    cap = float(floor(p.chunk_tokens * share))
    # Just in time is too late where more may come: the small chunk only as long as a quarter of its rate is left.
    if u.chunk_max <= 0.0 or 0.75 * rate_at(p, u, s, load, to, highest, cap) < need:
        cap = 1e9
    first, last = 0, steps
    while first < last:
        middle = (first + last) // 2
        if rate_at(p, u, s, load, to, low + middle * p.x_step, cap) >= need:
            last = middle
        else:
            first = middle + 1
    x = low + last * p.x_step
    s[S_URGENT] = min(cap, chunk_at(p, u, x, running, load.kv, to.tbt_s / s[S_PREFILL]))
    return x


def rate_at(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, x: float, cap: float) -> float:
    """Prefill tokens per second at clock x with the largest chunk allowed, at most `cap`."""
    running = load.running + 1.0
    chunk = min(cap, chunk_at(p, u, x, running, load.kv, to.tbt_s / s[S_PREFILL]))
    room = room_of(p, chunk, running)
    return room / (s[S_PREFILL] * iteration_s(p, x, running, load.kv, room))


def grid_up(x: float, step: float) -> float:
    """The first clock of the grid that is not below x."""
    return -floor(-x / step + 1e-6) * step


def decide(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, now_s: float) -> tuple[float, float, int]:
    """One step: the lock as a share of the highest clock (default_x = release), the chunk size, and why."""
    span = now_s - s[S_TIME]
    if s[S_STARTED] > 0.0 and now_s - s[S_UNQUIET] >= 2.0 * u.react_s + span - 1e-9:
        learn(p, u, s, load, now_s, span)
    reprice(p, s, load, to, max(0.0, span))
    chance(u, s, load)
    follow(s, load, now_s)
    if to.ttft_s < inf:
        remember(s, now_s, load.queued, to.ttft_s)
    before = s[S_X]
    why = choose(p, u, s, load, to, now_s)
    largest = chunk_at(p, u, s[S_X], load.running + 1.0, load.kv, to.tbt_s / s[S_PREFILL])
    # A small chunk keeps the gaps of long answers short; a backlog that is due gets the largest one.
    chunk = s[S_CHUNK]
    # Default clocks go with the engine's own: a smaller one would cut prompts into more pieces than there is time for.
    if why in (LOWEST, GAP):
        s[S_CHUNK] = min(largest, s[S_URGENT] if s[S_URGENT] > 0.0 else s[S_PLAN_CHUNK])
    else:
        s[S_CHUNK] = max(largest, p.chunk_tokens)
    if s[S_X] != before or abs(s[S_CHUNK] - chunk) > 0.1 * chunk:
        s[S_UNQUIET] = now_s
    return s[S_X], s[S_CHUNK], why


def choose(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, now_s: float) -> int:
    """The planned clock, or the higher one that the backlog asks for; approached from above."""
    low = grid_up(to.min_x, p.x_step)
    top = min(to.max_x, to.default_x)
    if low > top + 1e-9:
        release(s, to, now_s)
        return BOUNDS
    steps = int((top - low) / p.x_step + 1e-6)
    if stale(p, u, s, load, to, now_s):
        running = load.running + 1.0
        chunk = max(p.chunk_tokens, chunk_at(p, u, top, running, load.kv, to.tbt_s / s[S_PREFILL]))
        s[S_TOP] = top_rate(p, flow_of(s), chunk, running)
        s[S_LEAST] = s[S_LONG] / s[S_TOP]
        if short(p, s):  # what runs when it arrives has to end first, which a long one does not notice
            s[S_LEAST] += s[S_DECODE] * iteration_s(p, top, running, load.kv, 0.0)
        plan(p, u, s, load, to, low, steps)
        s[S_PLANNED] = now_s
        s[S_GAP] = s[S_PREFILL] * iteration_s(p, top, running, load.kv, room_of(p, chunk, running))
    s[S_WAIT] = load.queued / s[S_TOP]
    s[S_FIRST] = s[S_WAIT] + s[S_LEAST]
    if now_s < s[S_RECALIBRATE]:
        release(s, to, now_s)
        return DRIFT
    s[S_URGENT] = 0.0
    if s[S_PLAN_WHY] != float(LOWEST):
        release(s, to, now_s)
        return in_time(p, u, s, load, to, now_s, top)
    wanted = s[S_PLAN_X]
    if to.ttft_s < inf and load.queued > 0.0:
        need = needed_rate(s, now_s, load.queued, to.ttft_s, u)
        if need > s[S_TOP]:
            release(s, to, now_s)
            return WAIT if s[S_WAIT] > to.ttft_s else TTFT
        if s[S_WAIT] > u.rush_ratio * to.ttft_s:
            # A burst: just in time for these would be too late for the next ones.
            need = s[S_TOP]
        if need > planned_rate(p, s, load):
            wanted = max(wanted, urgent(p, u, s, load, to, need, low, steps))
    s[S_WANTED] = wanted
    approach(p.x_step, u, s, load.tail_s, to, now_s, low)
    highest = low + steps * p.x_step
    if highest + 1e-9 < s[S_X] < to.default_x - 1e-9:
        s[S_X] = highest
        s[S_CHANGED] = now_s
    return LOWEST


def in_time(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, now_s: float, top: float) -> int:
    """Why clocks are at default; a backlog that the gap's small chunk would bring too late is about the first token."""
    why = int(s[S_PLAN_WHY])
    if why == GAP and to.ttft_s < inf and load.queued > 0.0:
        need = needed_rate(s, now_s, load.queued, to.ttft_s, u)
        if need > rate_at(p, u, s, load, to, top, s[S_PLAN_CHUNK]):
            return TTFT
    return why


def planned_rate(p: Plant, s: list[float], load: Load) -> float:
    """Prefill tokens per second at the set point with the batch of this moment."""
    running = load.running + 1.0
    room = room_of(p, s[S_PLAN_CHUNK], running)
    return room / (s[S_PREFILL] * iteration_s(p, s[S_PLAN_X], running, load.kv, room))


def stale(p: Plant, u: Tuning, s: list[float], load: Load, to: Bounds, now_s: float) -> bool:
    """The set point is old, was made for other bounds, or does not keep the gap at the batch of this moment."""
    key = to.min_x + 3.0 * to.max_x
    for bound in (to.tbt_s, to.ttft_s, to.gap_s):
        key = 7.0 * key + (bound if bound < 1e6 else 1e6)
    if key != s[S_KEY] or s[S_PLANNED] <= 0.0:
        s[S_KEY] = key
        return True
    if now_s - s[S_PLANNED] >= u.plan_s - 1e-9:
        return True
    if u.chunk_max > 0.0 or s[S_PLAN_WHY] != float(LOWEST):
        return False
    running = load.running + 1.0
    room = room_of(p, s[S_PLAN_CHUNK], running)
    return s[S_PREFILL] * iteration_s(p, s[S_PLAN_X], running, load.kv, room) > to.tbt_s * 1.0005


def release(s: list[float], to: Bounds, now_s: float) -> None:
    if s[S_X] != to.default_x:
        s[S_X] = to.default_x
        s[S_CHANGED] = now_s
    s[S_CLEAN] = 0.0
    s[S_WANTED] = to.default_x


def approach(x_step: float, u: Tuning, s: list[float], tail_s: float, to: Bounds, now_s: float, low: float) -> None:
    """Up at once; down after clean windows, at once to a proven clock and by one step into unproven ones."""
    wanted, x = s[S_WANTED], s[S_X]
    if tail_s > to.tbt_s * 1.03:
        s[S_PROVEN] = to.default_x
    if wanted > x + 1e-9:
        s[S_CLEAN] = 0.0
        s[S_X] = wanted if wanted < to.default_x - 1e-9 else to.default_x
        s[S_CHANGED] = now_s
        return
    if wanted > x - 1e-9:
        s[S_CLEAN] = 0.0
        s[S_PROVEN] = min(s[S_PROVEN], x)
        return
    s[S_CLEAN] += 1.0
    if s[S_CLEAN] >= u.clean:
        s[S_PROVEN] = min(s[S_PROVEN], x)
        if now_s - s[S_CHANGED] >= u.dwell_s - 1e-9:
            step = max(x_step, floor(u.down_x / x_step + 1e-6) * x_step)
            down = x - step if s[S_PROVEN] >= x - 1e-9 else max(s[S_PROVEN], low)
            s[S_X] = max(wanted, down)
            s[S_CHANGED] = now_s
