"""The other knob of a what-if: the same requests on fewer engines, the rest switched off; and what nodes draw then.

A range of minutes cannot show how fast engines are started again (420 s), so the number is held for the whole replay:
the fewest engines that keep the strategy's bounds at default clocks, and one to spare. Simulated; node watts assumed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.policy.strategies import Metric, Strategy
from models.twin.node import HIGH, LOW, MID, NodeParams, node_power
from models.twin.params import TwinParams
from models.twin.workload import Workload
from models.whatif.replay import Control, Outcome, at_default, run
from models.whatif.series import KINDS, Bools, Hits, Kind, Series

SPARE: Final = 1  # engines kept beyond the fewest: one may fail
Ints = NDArray[np.int64]
MakeControl = Callable[[Series, "Outcome | None"], Control]


@dataclass(frozen=True, slots=True)
class Wall:
    """Saving at the wall with the twin's nodes: middle, and what their low and high assumptions span."""

    saving: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Fewer:
    """What fewer engines would have done; savings against all engines at default clocks."""

    controlled: int
    fewest: int  # that keep the bounds at default clocks
    on: int  # with the spare; hold-outs come on top
    off: int
    # Only where an engine is off:
    gpu_saving: float | None = None  # replicas and the strategy's clocks together
    gpu_saving_replicas: float | None = None  # replicas alone
    wall: Wall | None = None
    p99_ms: dict[str, float | None] | None = None  # of the controlled engines that are on, under the strategy
    kept: bool | None = None  # whether those p99s keep the strategy's bounds
    crowd: float = 0.0  # sequences of an engine in the mean, were the load shared by those on
    shown_crowd: float = 0.0  # the most (99th percentile) that the archive has shown of an engine

    @property
    def extrapolated(self) -> bool:
        """Whether fewer engines would carry more at once than any has shown."""
        return self.off > 0 and self.crowd > self.shown_crowd


def wall_w(gpu_w: float, *, gpus_on: int, gpus: int, params: NodeParams) -> float:
    """Watts of all nodes at the wall: GPUs that are on draw gpu_w each, the rest are switched off node by node.

    GPUs that share a node with working ones stay powered without a context.
    """
    nodes, working = ceil(gpus / params.gpus), ceil(gpus_on / params.gpus)
    bare = min(working * params.gpus, gpus) - gpus_on
    on_w = gpus_on * gpu_w + bare * params.idle_bare_w
    if working == 0:
        return nodes * params.off_w
    one = node_power(params, gpu_w=np.array([on_w / working]), busy_ratio=np.array([gpus_on / (gpus_on + bare)]))
    return working * float(one.wall_w[0]) + (nodes - working) * params.off_w


def wall_saving(ours_w: float, *, gpus_on: int, default_w: float, gpus: int) -> Wall:
    """Of gpus_on GPUs at ours_w against all at default_w."""
    found = [
        1.0
        - wall_w(ours_w, gpus_on=gpus_on, gpus=gpus, params=one)
        / wall_w(default_w, gpus_on=gpus, gpus=gpus, params=one)
        for one in (MID, LOW, HIGH)
    ]
    return Wall(found[0], (min(found), max(found)))


def fewer(
    series: Series,
    work: Workload,
    params: TwinParams,
    strategy: Strategy,
    default: Outcome,
    *,
    replayed: Bools,
    make_control: MakeControl,
) -> Fewer | None:
    """None where no engine may be switched off: one that is controlled, or hold-outs only."""
    controlled = np.flatnonzero(~series.holdout)
    if len(controlled) <= 1:
        return None
    limits = bounds_ms(strategy, default, replayed)

    def at(count: int) -> tuple[Series, Workload, Outcome]:
        part, moved = onto(series, work, count)
        return part, moved, run(at_default(part), moved, params)

    low, high = 1, len(controlled)  # all engines keep the bounds by definition: they are the reference
    while low < high:
        middle = (low + high) // 2
        if keeps(at(middle)[2], limits, replayed):
            high = middle
        else:
            low = middle + 1
    on = min(low + SPARE, len(controlled))
    if on == len(controlled):
        return Fewer(len(controlled), low, on, 0)
    part, moved, plain = at(on)
    control = make_control(part, None if part.holdout.any() else plain)
    ours = run(part, moved, params, control=control)
    return _told(series, default, plain, ours, limits, replayed, fewest=low, on=on, controlled=len(controlled))


def _told(
    series: Series,
    default: Outcome,
    plain: Outcome,
    ours: Outcome,
    limits: dict[Kind, float],
    replayed: Bools,
    *,
    fewest: int,
    on: int,
    controlled: int,
) -> Fewer:
    gpus = series.machine.gpus
    all_w = float(default.power_w[:, replayed].sum(axis=0).mean())  # of one GPU of each engine
    ours_w, plain_w = (float(one.power_w[:, replayed].sum(axis=0).mean()) for one in (ours, plain))
    left = len(ours.power_w)
    engines = len(series.engines)
    running = series.running[~series.holdout]
    p99 = {kind: ours.p99_ms(kind, replayed, arm=0) for kind in KINDS}
    return Fewer(
        controlled=controlled,
        fewest=fewest,
        on=on,
        off=controlled - on,
        gpu_saving=1.0 - ours_w / all_w,
        gpu_saving_replicas=1.0 - plain_w / all_w,
        wall=wall_saving(ours_w / left, gpus_on=left * gpus, default_w=all_w / engines, gpus=engines * gpus),
        p99_ms={kind: float(value) if np.isfinite(value) else None for kind, value in p99.items()},
        kept=keeps(ours, limits, replayed),
        crowd=float(np.nanmean(running[:, replayed])) * controlled / on,
        shown_crowd=float(np.nanquantile(running, 0.99)),
    )


def bounds_ms(strategy: Strategy, default: Outcome, replayed: Bools) -> dict[Kind, float]:
    """What each p99 may be; what default clocks themselves miss is their own p99."""
    found: dict[Kind, float] = {}
    for kind in KINDS:
        metric: Metric = kind
        seen = default.p99_ms(kind, replayed, arm=0)
        limit = strategy.bound(metric).limit_ms(seen if np.isfinite(seen) else None)
        if limit is not None:
            found[kind] = max(limit, seen) if np.isfinite(seen) else limit
    return found


def keeps(seen: Outcome, limits: dict[Kind, float], replayed: Bools) -> bool:
    """Whether every bounded p99 of the controlled engines is known and kept."""
    values = [(seen.p99_ms(kind, replayed, arm=0), limit) for kind, limit in limits.items()]
    return all(np.isfinite(value) and value <= limit for value, limit in values)


def onto(series: Series, work: Workload, count: int) -> tuple[Series, Workload]:
    """The first `count` controlled engines and all hold-outs; the controlled ones' requests shared among those left.

    Each request goes to the engine with the fewest in flight; hold-outs keep their own.
    """
    controlled = np.flatnonzero(~series.holdout)
    kept = np.sort(np.concatenate([controlled[:count], np.flatnonzero(series.holdout)]))
    number = np.full(len(series.engines), -1, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    target = number[work.replica]
    moved = np.flatnonzero(~series.holdout[work.replica])
    moved = moved[np.argsort(work.arrival_s[moved], kind="stable")]
    target[moved] = number[controlled[:count]][_least_loaded(work, moved, count)]
    order = np.lexsort((work.arrival_s, target))
    shared = Workload(
        work.arrival_s[order], work.prompt_tokens[order], work.output_tokens[order], target[order], work.period_s
    )
    return _only(series, kept, number), shared


def _least_loaded(work: Workload, rows: Ints, count: int) -> Ints:
    """The engine of each request, in order of arrival: fewest in flight, a request lasting as long as its tokens."""
    lasts = 1e-4 * work.prompt_tokens[rows] + 0.03 * work.output_tokens[rows]
    flights: list[list[float]] = [[] for _ in range(count)]
    chosen = np.zeros(len(rows), dtype=np.int64)
    for at, (arrival, length) in enumerate(zip(work.arrival_s[rows].tolist(), lasts.tolist(), strict=True)):
        for flight in flights:
            while flight and flight[0] <= arrival:
                heapq.heappop(flight)
        engine = min(range(count), key=lambda one: len(flights[one]))
        heapq.heappush(flights[engine], arrival + length)
        chosen[at] = engine
    return chosen


def _only(series: Series, kept: Ints, number: Ints) -> Series:
    names = ("prompt", "generated", "finished", "running", "power_w", "lock_mhz", "limit_w")
    hits = {}
    for kind, found in series.hits.items():
        rows = number[found.engine] >= 0
        hits[kind] = Hits(number[found.engine[rows]], found.slot[rows], found.bucket[rows], found.count[rows])
    return replace(
        series,
        engines=tuple(series.engines[one] for one in kept.tolist()),
        holdout=series.holdout[kept],
        hits=hits,
        **{name: getattr(series, name)[kept] for name in names},
    )
