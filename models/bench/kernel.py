"""The compiled twin: requests, routing, continuous batching, replicas and energy, moved forward event by event.

Written as plain Python so that it can be read and run as such; `compiled` turns it into machine code together with the
equations and the local controller. The cost of an iteration does not depend on how many sequences run. It decides
nothing: clocks come from the local policy, replicas from the caller.
"""

from __future__ import annotations

from math import floor, log

from models.bench.brake import brake
from models.bench.local import Local, control, wake
from models.bench.plantparts import Node
from models.bench.state import (
    BIN_WIDTH,
    BINS,
    C_ARRIVED,
    C_ARRIVED_IN,
    C_ARRIVED_OUT,
    C_BUDGET_W,
    C_FINISHED,
    C_LATE_S,
    C_LONG_S,
    C_LOW,
    C_LOW_SHARE,
    C_METER,
    C_NEXT_REQUEST,
    C_NEXT_TICK,
    C_NOW,
    C_OVER,
    C_PEAK_W,
    C_ROW_J,
    C_SECOND,
    C_SECOND_J,
    C_TOUCHED,
    DRAINING,
    H_BUSY_S,
    H_DEEP_S,
    H_GAPS,
    H_GPU_J,
    H_HOST_J,
    H_HOST_S,
    H_MISSED,
    H_NODE_S,
    H_ON_S,
    H_OUTPUT,
    H_REQUESTS,
    H_SLOW_GAPS,
    H_X_S,
    LOADING,
    MISS_TBT_S,
    MISS_TTFT_S,
    O_ANSWERS,
    O_ARRIVED,
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
    OFF,
    ON,
    RING,
    Sim,
)
from models.control.equations import Plant, idle_w, under_limit
from models.policy.strategies import DEEPEST_SM_RATIO


def hist_bin(seconds: float) -> int:
    """Bin of a duration: 0.5 % wide from 1 ms."""
    if seconds <= 1e-3:
        return 0
    found = int(log(seconds * 1e3) / BIN_WIDTH)
    return min(found, BINS - 1)


def hour_of(sim: Sim, now_s: float) -> int:
    return int(min(int(now_s / 3600.0), sim.hours.shape[0] - 1))


def class_of(sim: Sim, index: int) -> bool:
    """Whether a request is of low priority: a fixed share of them, evenly spread."""
    share = sim.clock[C_LOW_SHARE]
    return bool(share > 0.0 and floor((index + 1) * share) > floor(index * share))


def route(sim: Sim, index: int) -> int:
    """Joins the least loaded replica that is on; draining ones only when nothing else is there."""
    best, least = -1, 1e300
    low = 1 if class_of(sim, index) else 0
    for wanted in (ON, DRAINING, LOADING):
        for r in range(sim.t.shape[0]):
            if sim.state[r] == wanted and sim.low[r] == low:
                load = sim.queued[r] * 8e-5 + sim.running[r] * 2e-3
                if load < least:
                    best, least = r, load
        if best >= 0:
            break
    if best < 0:
        best = 0
        sim.state[0] = ON
    r = best
    tokens = float(sim.prompt[index])
    sim.link[index] = -1
    if sim.head[r] < 0:
        sim.head[r] = index
        sim.head_left[r] = tokens
    else:
        sim.link[sim.tail[r]] = index
    sim.tail[r] = index
    if sim.fresh[r] < 0:
        sim.fresh[r] = index
    sim.waiting[r] += 1
    sim.queued[r] += tokens
    sim.obs[r, O_ARRIVED] += tokens
    if tokens > sim.obs[r, O_LONGEST]:
        sim.obs[r, O_LONGEST] = tokens
    sim.clock[C_ARRIVED] += 1.0
    sim.clock[C_ARRIVED_IN] += tokens
    return r


def admit(sim: Sim, p: Plant, r: int, room: float) -> None:
    """Admits from the queue until the chunk is full, within the sequence and KV limits."""
    seats = sim.running[r]
    j = sim.head[r]
    while j >= 0 and j != sim.fresh[r]:
        seats += 1.0
        j = sim.link[j]
    while sim.fresh[r] >= 0 and sim.admitted[r] < room:
        j = sim.fresh[r]
        need = float(sim.prompt[j] + sim.output[j])
        if sim.reserved[r] + need > p.kv_limit_tokens or seats >= p.max_sequences:
            break
        sim.reserved[r] += need
        sim.admitted[r] += float(sim.prompt[j])
        seats += 1.0
        sim.fresh[r] = sim.link[j]


def finish(sim: Sim, r: int, j: int, now_s: float) -> None:
    """Books a finished request."""
    whole = now_s - sim.arrival_s[j]
    hour = hour_of(sim, sim.arrival_s[j])
    sim.hist[2, hour, hist_bin(whole)] += 1.0
    tokens = float(sim.output[j])
    sim.hours[hour, H_REQUESTS] += 1.0
    sim.hours[hour, H_OUTPUT] += tokens
    first = float(sim.first_s[j])
    gap = (whole - first) / (tokens - 1.0) if tokens > 1.0 else 0.0
    if first > MISS_TTFT_S or gap > MISS_TBT_S:
        sim.hours[hour, H_MISSED] += 1.0
    if sim.low[r] > 0:
        sim.clock[C_LOW] += 1.0
        if sim.braked_s[r] >= sim.arrival_s[j]:
            sim.clock[C_TOUCHED] += 1.0
    sim.obs[r, O_ANSWERS] += 1.0
    if whole > sim.clock[C_LONG_S]:
        sim.obs[r, O_LONG] += 1.0
    sim.clock[C_FINISHED] += 1.0
    sim.clock[C_ARRIVED_OUT] += tokens


def complete(sim: Sim, r: int, dt_s: float, prefill: float, bound_s: float, hour: int) -> None:
    """The end of an iteration: gaps, finished sequences, prefilled prompts."""
    now_s = sim.t[r]
    running = sim.running[r]
    sim.iteration[r] += 1
    if running > 0.0:
        sim.hist[1, hour, hist_bin(dt_s)] += running
        sim.hours[hour, H_GAPS] += running
        if dt_s > MISS_TBT_S:
            sim.hours[hour, H_SLOW_GAPS] += running
        sim.obs[r, O_TOKENS] += running
        sim.obs[r, O_TOKEN_S] += running * dt_s
        if dt_s > sim.obs[r, O_TBT_MAX]:
            sim.obs[r, O_TBT_MAX] = dt_s
        if dt_s > bound_s:
            sim.obs[r, O_SLOW] += running
        sim.kv[r] += running
    slot = sim.iteration[r] % RING
    j = sim.ring[r, slot]
    sim.ring[r, slot] = -1
    while j >= 0:
        after = sim.link[j]
        sim.running[r] -= 1.0
        tokens = float(sim.prompt[j] + sim.output[j])
        sim.kv[r] -= tokens - 1.0
        sim.reserved[r] -= tokens
        finish(sim, r, j, now_s)
        j = after
    if prefill > 0.0:
        first_tokens(sim, r, now_s, prefill)


def first_tokens(sim: Sim, r: int, now_s: float, prefill: float) -> None:
    """Moves `prefill` tokens from the queue into the cache; whole prompts give their first token."""
    sim.kv[r] += prefill
    sim.queued[r] -= prefill
    sim.admitted[r] -= prefill
    sim.obs[r, O_PREFILL] += prefill
    left = prefill
    while left > 0.0 and sim.head[r] >= 0:
        j = sim.head[r]
        if sim.head_left[r] > left:
            sim.head_left[r] -= left
            break
        left -= sim.head_left[r]
        after = sim.link[j]
        sim.head[r] = after
        sim.head_left[r] = float(sim.prompt[after]) if after >= 0 else 0.0
        if after < 0:
            sim.tail[r] = -1
        sim.waiting[r] -= 1
        first = now_s - sim.arrival_s[j]
        sim.first_s[j] = first
        sim.hist[0, hour_of(sim, sim.arrival_s[j]), hist_bin(first)] += 1.0
        sim.obs[r, O_FIRSTS] += 1.0
        if first > sim.clock[C_LATE_S]:
            sim.obs[r, O_LATE] += 1.0
        if first > sim.obs[r, O_TTFT_MAX]:
            sim.obs[r, O_TTFT_MAX] = first
        if sim.output[j] > 1:
            sim.running[r] += 1.0
            slot = (sim.iteration[r] + sim.output[j] - 1) % RING
            sim.link[j] = sim.ring[r, slot]
            sim.ring[r, slot] = j
        else:
            tokens = float(sim.prompt[j] + sim.output[j])
            sim.kv[r] -= float(sim.prompt[j])
            sim.reserved[r] -= tokens
            finish(sim, r, j, now_s)


def spend(sim: Sim, r: int, watts: float, seconds: float, hour: int) -> None:
    """Energy of one GPU of the replica; the hour is that of the beginning."""
    joules = watts * seconds
    sim.energy[r] += joules
    sim.obs[r, O_ENERGY] += joules
    sim.power[r] = watts
    sim.hours[hour, H_GPU_J] += joules


def land(sim: Sim, r: int) -> None:
    if sim.next_x[r] > 0.0 and sim.t[r] >= sim.lands_s[r] - 1e-9:
        sim.x[r] = sim.next_x[r]
        sim.chunk[r] = sim.next_chunk[r]
        sim.next_x[r] = -1.0


def advance_replica(sim: Sim, p: Plant, node: Node, r: int, until_s: float, bound_s: float, phase_x: float) -> None:
    """Runs one replica to until_s; an iteration that spans it ends later."""
    if sim.state[r] == LOADING:
        end = min(until_s, sim.ready_s[r])
        if end > sim.t[r]:
            spend(sim, r, node.boot_w, end - sim.t[r], hour_of(sim, sim.t[r]))
            sim.t[r] = end
        if sim.ready_s[r] > until_s:
            return
        sim.state[r] = ON
    if sim.state[r] == OFF:
        sim.t[r] = max(sim.t[r], until_s)
        sim.power[r] = 0.0
        return
    hour = hour_of(sim, sim.t[r])
    while sim.t[r] < until_s:
        land(sim, r)
        # Whole tokens: a fraction would leave a remainder of a prompt that no iteration takes up.
        room = max(floor(sim.chunk[r] - sim.running[r]), p.min_prefill_tokens)
        if sim.fresh[r] >= 0 and sim.admitted[r] < room:
            admit(sim, p, r, room)
        prefill = min(room, sim.admitted[r])
        if sim.running[r] <= 0.0 and prefill <= 0.0:
            if sim.state[r] == DRAINING:
                sim.state[r] = OFF
                sim.t[r] = until_s
                sim.power[r] = 0.0
                return
            end = until_s
            if sim.next_x[r] > 0.0 and sim.lands_s[r] < until_s:
                end = sim.lands_s[r]
            spend(sim, r, idle_w(p, sim.x[r]), end - sim.t[r], hour)
            sim.t[r] = end
            continue
        asked = sim.x[r]
        if phase_x > 0.0 and prefill <= 0.0:
            asked = min(asked, phase_x)
        x, dt_s, watts = under_limit(p, asked, sim.running[r], sim.kv[r], prefill, sim.limit_w[r])
        spend(sim, r, watts, dt_s, hour)
        sim.hours[hour, H_X_S] += x * dt_s
        sim.hours[hour, H_BUSY_S] += dt_s
        if x < DEEPEST_SM_RATIO - 1e-6:
            sim.hours[hour, H_DEEP_S] += dt_s
        sim.t[r] += dt_s
        complete(sim, r, dt_s, prefill, bound_s, hour)


def meter(sim: Sim, p: Plant, node: Node, now_s: float) -> None:
    """Hosts since the last call, and the highest second of the whole row (GPUs, hosts, power supplies)."""
    span = now_s - sim.clock[C_METER]
    if span <= 0.0:
        return
    hour = hour_of(sim, sim.clock[C_METER])
    replicas = sim.t.shape[0]
    per = int(node.replicas)
    host_w, bare_w, row_j = 0.0, 0.0, 0.0
    for first in range(0, replicas, per):
        live, seats = 0, 0
        for r in range(first, min(first + per, replicas)):
            seats += 1
            if sim.state[r] != OFF:
                live += 1
        if live > 0:
            host_w += node.host_w * seats / per
            bare_w += (seats - live) * p.gpus * node.bare_w
            sim.hours[hour, H_ON_S] += live * span
            sim.hours[hour, H_NODE_S] += span
            sim.hours[hour, H_HOST_S] += seats / per * span
        else:
            host_w += node.off_w * seats / per
            bare_w += seats * p.gpus * node.off_gpu_w
    for r in range(replicas):
        row_j += sim.energy[r] - sim.power[r] * max(0.0, sim.t[r] - now_s)
    if sim.clock[C_BUDGET_W] > 0.0:
        row_w = ((row_j - sim.clock[C_ROW_J]) / span * p.gpus + bare_w) * (1.0 + node.host_per_gpu_w) + host_w
        sim.clock[C_ROW_J] = row_j
        brake(sim, p, row_w / node.supply_ratio / sim.clock[C_BUDGET_W], now_s, span)
    sim.hours[hour, H_HOST_J] += host_w * span
    sim.hours[hour, H_GPU_J] += bare_w * span / p.gpus
    sim.clock[C_METER] = now_s
    if now_s - sim.clock[C_SECOND] >= 1.0 - 1e-9:
        mean_w = (row_j - sim.clock[C_SECOND_J]) * p.gpus / (now_s - sim.clock[C_SECOND]) + bare_w
        wall_w = (host_w + mean_w * (1.0 + node.host_per_gpu_w)) / node.supply_ratio
        if now_s > 60.0:
            sim.clock[C_PEAK_W] = max(sim.clock[C_PEAK_W], wall_w)
            if wall_w > sim.clock[C_BUDGET_W] > 0.0:
                sim.clock[C_OVER] += 1.0
        sim.clock[C_SECOND] = now_s
        sim.clock[C_SECOND_J] = row_j


def advance(sim: Sim, p: Plant, belief: Plant, node: Node, how: Local, until_s: float) -> None:
    """Moves the whole cluster to until_s: arrivals, control steps, replicas."""
    count = sim.arrival_s.shape[0]
    replicas = sim.t.shape[0]
    index = int(sim.clock[C_NEXT_REQUEST])
    while True:
        arrival = sim.arrival_s[index] if index < count else 1e300
        tick = sim.clock[C_NEXT_TICK]
        now_s = min(min(arrival, tick), until_s)
        for r in range(replicas):
            if sim.t[r] < now_s or sim.state[r] != ON:
                advance_replica(sim, p, node, r, now_s, how.slow_gap_s, how.phase_x)
        if now_s >= until_s and arrival > until_s and tick > until_s:
            break
        if arrival <= tick and arrival <= until_s:
            wake(sim, belief, how, route(sim, index), now_s)
            index += 1
        elif tick <= until_s:
            meter(sim, p, node, now_s)
            control(sim, belief, how, now_s)
            sim.clock[C_NEXT_TICK] = tick + how.tick_s
        else:
            break
    meter(sim, p, node, until_s)
    sim.clock[C_NEXT_REQUEST] = float(index)
    sim.clock[C_NOW] = until_s
