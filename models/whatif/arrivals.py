"""Requests from counters and histograms: nobody archives single requests, yet a replay needs them.

How: each entry of the first-token histogram is one request, which arrived its own latency before the slot in which it
was counted (at a random moment of the slot: even spacing would hide bursts). The prompt tokens counted up to that slot
are shared among the requests that it finished, in proportion to what of their latencies grows with a prompt. Each entry
of the request-duration histogram is matched to the arrival nearest to its birth; its tokens are the time from first to
last token over the measured mean gap of that engine at that time. Requests that outlive the range get a length drawn
from the longer ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.twin.workload import Workload
from models.whatif.series import PER_OCTAVE, Array, Ints, Series

_SLACK_SLOTS = 1.5  # an arrival and a birth are each known to a slot
_SLACK_SHARE = 0.03  # a bucket is 2.2 % wide
_FIXED_SHARE = (
    0.6  # of the 5th percentile; on twins of three seeds the p99 then comes out within 6 %, without it within 10 %
)
_WIDER = (1.0, 4.0)  # a birth whose neighbours took its arrival takes one further off: nearly the same request


@dataclass(frozen=True, slots=True)
class Found:
    """Requests of one engine, and how many of them have a measured length."""

    arrival_s: Array
    prompt: Array
    output: Array
    matched: int


@dataclass(frozen=True, slots=True)
class Load:
    """What the replay gets."""

    work: Workload
    measured_ratio: float  # share of requests whose output length was measured
    clipped: int  # requests longer than half of the KV cache, cut to it


def reconstruct(series: Series, *, seed: int, kv_limit_tokens: int) -> Load:
    """The workload of all engines; empty when no request arrived."""
    rng = np.random.default_rng(seed)
    parts = [_engine(series, engine, rng) for engine in range(len(series.engines))]
    count = sum(len(part.arrival_s) for part in parts)
    if count == 0:
        none = np.zeros(0, dtype=np.int64)
        return Load(Workload(np.zeros(0), none, none, none), 0.0, 0)
    half = kv_limit_tokens // 2  # a request beyond the cache would block its queue for ever
    prompt, output = (np.concatenate([getattr(part, name) for part in parts]) for name in ("prompt", "output"))
    work = Workload(
        arrival_s=np.concatenate([part.arrival_s for part in parts]),
        prompt_tokens=_whole(prompt, half),
        output_tokens=_whole(output, half),
        replica=np.repeat(np.arange(len(parts)), [len(part.arrival_s) for part in parts]),
    )
    measured = sum(part.matched for part in parts) / count
    return Load(work, measured, int(((prompt > half) | (output > half)).sum()))


def _whole(tokens: Array, most: int) -> Ints:
    return np.clip(np.round(tokens), 1, most).astype(np.int64)


def _engine(series: Series, engine: int, rng: np.random.Generator) -> Found:
    slot, ttft_ms = series.hits["ttft"].of(engine)
    order = np.argsort(slot, kind="stable")
    slot, ttft_s = slot[order], ttft_ms[order] / 1e3
    first_s = (slot + rng.random(len(slot))) * series.step_s
    prompt = _prompts(series.prompt[engine], slot, _weight(ttft_s))
    arrival_s = np.maximum(first_s - ttft_s, 0.0)
    tokens_at = _clockwork(series, engine)
    ended_slot, e2e_ms = series.hits["e2e"].of(engine)
    ended_s = (ended_slot + rng.random(len(ended_slot))) * series.step_s
    e2e_s, earlier = _match(series, first_s - ttft_s, ended_s, e2e_ms / 1e3)
    known = np.isfinite(e2e_s)
    output = np.full(len(slot), np.nan)
    # Its own duration, not the difference of two moments that are each known to a slot.
    output[known] = 1.0 + tokens_at((first_s - ttft_s + e2e_s)[known]) - tokens_at(first_s[known])
    elapsed = tokens_at(np.array([series.seconds]))[0] - tokens_at(first_s[~known])
    output[~known] = _drawn(output[known], elapsed, rng)
    before = _in_flight(series, engine, earlier, output, tokens_at, rng)
    mean_prompt = prompt.mean() if len(prompt) else 1.0
    arrivals = np.concatenate([np.zeros(len(before)), arrival_s])
    prompts = np.concatenate([np.full(len(before), mean_prompt), prompt])
    by_time = np.argsort(arrivals, kind="stable")
    outputs = np.maximum(np.concatenate([before, output]), 1.0)
    return Found(arrivals[by_time], prompts[by_time], outputs[by_time], int(known.sum()))


def _weight(ttft_s: Array) -> Array:
    """What of a latency grows with the prompt: the shortest ones only waited for an iteration."""
    if len(ttft_s) == 0:
        return ttft_s
    fixed = _FIXED_SHARE * float(np.quantile(ttft_s, 0.05))
    return np.maximum(ttft_s - fixed, 0.05 * ttft_s)


def _prompts(rise: Array, slot: Ints, weight: Array) -> Array:
    """Prompt tokens of each request: those counted since the slot before with a first token, shared by weight."""
    if len(slot) == 0:
        return np.zeros(0)
    total = np.cumsum(np.nan_to_num(rise))
    ends, inverse = np.unique(slot, return_inverse=True)
    tokens = np.diff(total[ends], prepend=0.0)
    share: Array = weight / np.bincount(inverse, weights=weight)[inverse]
    return np.maximum(tokens[inverse] * share, 1.0)


class _Clockwork:
    """Tokens that one running sequence of an engine had been given by a time: the integral of 1 / mean gap."""

    def __init__(self, step_s: float, gap_s: Array) -> None:
        self._edges = np.arange(len(gap_s) + 1) * step_s
        self._tokens = np.concatenate([[0.0], np.cumsum(step_s / gap_s)])

    def __call__(self, time_s: Array) -> Array:
        return np.asarray(np.interp(time_s, self._edges, self._tokens), dtype=np.float64)


def _clockwork(series: Series, engine: int) -> _Clockwork:
    hits = series.hits["tbt"]
    rows = np.flatnonzero(hits.engine == engine)
    value_s = 2.0 ** ((hits.bucket[rows] + 0.5) / PER_OCTAVE) / 1e3
    count = np.bincount(hits.slot[rows], weights=hits.count[rows], minlength=series.slots)
    total = np.bincount(hits.slot[rows], weights=hits.count[rows] * value_s, minlength=series.slots)
    known = count > 0
    if not known.any():
        return _Clockwork(series.step_s, np.full(series.slots, series.step_s))
    at = np.arange(series.slots)
    gap = np.interp(at, at[known], total[known] / count[known])
    return _Clockwork(series.step_s, np.asarray(gap, dtype=np.float64))


def _match(series: Series, born_s: Array, ended_s: Array, e2e_s: Array) -> tuple[Array, Array]:
    """How long each request took (NaN = unknown), and the ends of those born before the range."""
    took = np.full(len(born_s), np.nan)
    order = np.argsort(born_s, kind="stable")
    births, free = born_s[order], np.ones(len(born_s), dtype=np.bool_)
    begins = ended_s - e2e_s
    slack = _SLACK_SLOTS * series.step_s + _SLACK_SHARE * e2e_s
    block = np.cumsum(series.seam).astype(np.int64)
    waiting, earlier = [int(row) for row in np.argsort(begins, kind="stable")], list[float]()
    for wider in _WIDER:
        left: list[int] = []
        for row in waiting:
            low, high = np.searchsorted(births, [begins[row] - wider * slack[row], begins[row] + wider * slack[row]])
            near = [at for at in range(low, high) if free[at] and _same(series, block, births[at], ended_s[row])]
            if near:
                best = min(near, key=lambda at: abs(births[at] - begins[row]))
                free[best] = False
                took[order[best]] = e2e_s[row]
            elif begins[row] < slack[row] and _same(series, block, 0.0, ended_s[row]):
                earlier.append(float(ended_s[row]))
            else:
                left.append(row)
        waiting = left
    return took, np.array(earlier)


def _same(series: Series, block: Ints, one_s: float, other_s: float) -> bool:
    """Whether no gap was cut out between two times."""
    top = series.slots - 1
    first, second = (min(max(int(time / series.step_s), 0), top) for time in (one_s, other_s))
    return bool(block[first] == block[second])


def _drawn(known: Array, elapsed: Array, rng: np.random.Generator) -> Array:
    """Lengths for requests that went on when the range ended, each longer than what it had got."""
    lengths = np.sort(known)
    drawn = np.empty(len(elapsed))
    for index, least in enumerate(elapsed):
        start = int(np.searchsorted(lengths, least, side="right"))
        # One that would have to be longer than any seen has ended, only its end was not found.
        drawn[index] = rng.choice(lengths[start:] if start < len(lengths) else lengths) if len(lengths) else least
    return drawn


def _in_flight(
    series: Series, engine: int, ended_s: Array, output: Array, tokens_at: _Clockwork, rng: np.random.Generator
) -> Array:
    """Tokens that the sequences running at the beginning still wanted; the twin takes them in during its warm-up."""
    seen = tokens_at(ended_s) if len(ended_s) else np.zeros(0)
    at_start = series.running[engine, 0] if series.slots else np.nan
    missing = int(at_start) - len(seen) if np.isfinite(at_start) else 0
    if missing <= 0 or len(output) == 0:
        return seen
    return np.concatenate([seen, rng.choice(output, missing)])
