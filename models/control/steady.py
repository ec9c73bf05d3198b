"""What a replica does under a steady load: batch, gap, share of prefill, watts. On floats; compiled by the bench too.

The local controller asks it which clock and chunk cost least at the load of the last seconds; the slow controller asks
it the same for every number of replicas.
"""

from __future__ import annotations

from math import exp, inf
from typing import Final, NamedTuple

from models.control.equations import Plant, board_w, idle_w, iteration_s, under_limit

BUSY_MAX: Final = 0.97  # share of time in mixed iterations: at 1 the queue has no end
SEATS_MAX: Final = 0.9  # of the sequences and of the cache that an engine holds: beyond it newcomers stand in a queue
ROUNDS: Final = 3
COARSE_CHUNK: Final = 128.0
COARSE_CLOCKS: Final = 10


class Flow(NamedTuple):
    """A replica's load and what is learned of the stack."""

    prompt_rate: float  # tokens/s
    output_rate: float  # tokens/s
    kv_each: float  # tokens in the cache per running sequence
    decode_ratio: float
    prefill_ratio: float
    meet: float = 1.0  # a token meets this much of the share of time in prefill: routing keeps prompts off busy engines


class Steady(NamedTuple):
    """The replica's mean state. `busy`: share of time in mixed iterations; above BUSY_MAX there is no steady state."""

    running: float
    gap_s: float
    mixed_s: float
    decode_s: float
    prefill_rate: float  # tokens/s while it prefills
    busy: float
    gpu_w: float


def steady(p: Plant, flow: Flow, x: float, chunk: float) -> Steady:
    """Fixed point of Little's law: running sequences = output rate x gap, gap = f(running)."""
    running = flow.output_rate * 0.03
    gap = mixed = decode = 0.03
    room = rate = busy = 1.0
    for _ in range(ROUNDS):
        seats = min(max(running, 1.0), p.max_sequences)
        kv = seats * flow.kv_each
        room = max(chunk - seats, p.min_prefill_tokens)
        mixed = flow.prefill_ratio * iteration_s(p, x, seats, kv, room)
        decode = flow.decode_ratio * iteration_s(p, x, seats, kv, 0.0)
        rate = room / mixed
        busy = flow.prompt_rate / rate
        share = min(busy * flow.meet, BUSY_MAX)
        gap = 1.0 / (share / mixed + (1.0 - share) / decode)
        running = 0.5 * (running + flow.output_rate * gap)
    return Steady(running, gap, mixed, decode, rate, busy, watts(p, flow, x, running, room, mixed, decode, busy))


def filled(p: Plant, flow: Flow, running: float) -> float:
    """How full an engine with so many sequences is, of its seats or of its cache: whichever is fuller."""
    return max(running / p.max_sequences, running * flow.kv_each / p.kv_limit_tokens)


def watts(
    p: Plant, flow: Flow, x: float, running: float, room: float, mixed: float, decode: float, busy: float
) -> float:
    """Mean watts of one GPU: mixed iterations, decode iterations, and idle when nothing runs."""
    seats = max(running, 1.0)
    kv = seats * flow.kv_each
    share = min(busy, 1.0)
    mixed_w = min(p.limit_w, board_w(p, x, seats, kv, room, mixed))
    decode_w = board_w(p, x, seats, kv, 0.0, decode)
    alone = (1.0 - share) * (1.0 - exp(-running))
    return share * mixed_w + alone * decode_w + (1.0 - share - alone) * idle_w(p, x)


def top_rate(p: Plant, flow: Flow, chunk: float, running: float) -> float:
    """Prefill tokens per second at default clocks, held by the power limit."""
    seats = max(running, 1.0)
    room = max(chunk - seats, p.min_prefill_tokens)
    _, t_s, _ = under_limit(p, 1.0, seats, seats * flow.kv_each, room, p.limit_w)
    return room / (flow.prefill_ratio * t_s)


def cheapest(
    p: Plant,
    flow: Flow,
    tbt_s: float,
    gap_s: float,
    busy_max: float,
    min_x: float,
    chunk_min: float,
    chunk_max: float,
    price_w: float,
) -> tuple[float, float, float, float]:
    """Clock, chunk, cost and watts of one GPU where the cost is least and the bounds are kept; infinite when none do.

    The cost is the watts and `price_w` for each running sequence.
    """
    best_x, best_chunk, best_cost, best_w = 1.0, p.chunk_tokens, inf, inf
    chunks = 1 if chunk_max <= 0.0 else max(1, int((chunk_max - chunk_min) / COARSE_CHUNK) + 1)
    for k in range(chunks):
        chunk = p.chunk_tokens if chunk_max <= 0.0 else chunk_min + k * COARSE_CHUNK
        last = inf
        for step in range(COARSE_CLOCKS + 1):
            x = min_x + (1.0 - min_x) * step / COARSE_CLOCKS
            found = steady(p, flow, x, chunk)
            keeps = max(found.mixed_s, found.decode_s) <= tbt_s and found.gap_s <= gap_s and found.busy <= busy_max
            if not (keeps and filled(p, flow, found.running) <= SEATS_MAX):
                continue
            cost = found.gpu_w + price_w * found.running
            if cost >= last:
                break
            last = cost
            if cost < best_cost:
                best_x, best_chunk, best_cost, best_w = x, chunk, cost, found.gpu_w
    return best_x, best_chunk, best_cost, best_w
