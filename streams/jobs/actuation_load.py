"""What a pool of engines was asked to do since the last slow step, and what it drew: counters in, rates out.

A counter that goes back, a time that stands still and an absurd rate make that engine's rate unknown, never zero. The
pool's rate is that of the engines that are known, scaled to all that serve.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from typing import Final, Literal

from models.control.forecast import LoadNow
from models.policy.parking import Replica
from streams.contract.records import EngineReading
from streams.jobs.actuation_latency import Pool

MOST_RATE: Final = 1e5  # requests/s of one engine: a counter of something else
MOST_TOKENS: Final = 1e8  # tokens/s, the same
FORGET_S: Final = 86_400.0  # an engine that is silent for a day has gone; until then it can be started again
LEARNS: Final = frozenset({"controlled", "watched", "rolled_back"})
RATIO: Final = (0.3, 3.0)  # what a node's controller can have learned; beyond it is noise or another unit
SLACK: Final = (0.01, 10.0)
PRICE_W: Final = (0.0, 1e6)
MEET: Final = (0.0, 3.0)
Side = Literal["controlled", "holdout", "default"]


@dataclass(slots=True)
class _Track:
    """One engine: its reading at the last step and its newest."""

    node: str
    first: EngineReading
    last: EngineReading
    seen_s: float
    side: Side = "default"


@dataclass(frozen=True, slots=True)
class Learned:
    """What the nodes' controllers have learned of a pool's engines, means; None = no node says. `engines`: how many."""

    engines: int = 0
    decode_ratio: float | None = None
    prefill_ratio: float | None = None
    slack: float | None = None  # of controlled engines only: the others' answers keep no bound of ours
    wait_price_w: float | None = None
    meet: float | None = None
    rolled_back: bool = False  # one of them keeps default clocks, because too many of its requests missed the SLO


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """A pool over one step; None is unknown. Rates are of the whole pool, `load` is one engine's mean state."""

    serving: int
    known: int  # engines with a rate
    ever: int  # engines seen within a day
    nodes: int
    rate: float | None
    prompt_tokens: float | None  # mean of a request
    output_tokens: float | None
    kv_each: float | None
    load: LoadNow | None
    power_w: dict[Side, float]  # mean of one GPU
    gpus: int
    quality: str
    learned: Learned = field(default_factory=lambda: Learned())
    replicas: tuple[Replica, ...] = ()  # all that were seen within a day


@dataclass(slots=True)
class _Power:
    total_w: float = 0.0
    count: int = 0


@dataclass(slots=True)
class LoadBook:
    """All pools of this worker."""

    _tracks: dict[Pool, dict[str, _Track]] = field(default_factory=lambda: defaultdict(dict))
    _power: dict[Pool, dict[Side, _Power]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(_Power)))
    _quality: dict[Pool, set[str]] = field(default_factory=lambda: defaultdict(set))

    def take(
        self,
        node: str,
        engine: EngineReading,
        seen_s: float,
        *,
        side: Side,
        watts: Iterable[float | None],
        quality: str,
    ) -> None:
        """One reading of an engine with the watts of its GPUs."""
        pool = Pool(engine.stack, engine.workload)
        track = self._tracks[pool].get(engine.engine)
        if track is None or _went_back(track.last, engine):
            self._tracks[pool][engine.engine] = _Track(node, engine, engine, seen_s)
        else:
            track.last, track.seen_s, track.node = engine, seen_s, node
        self._tracks[pool][engine.engine].side = side
        self._quality[pool].add(quality)
        for one in watts:
            if one is not None and isfinite(one) and one >= 0.0:
                power = self._power[pool][side]
                power.total_w += one
                power.count += 1

    def step(self, now_s: float, *, fresh_s: float) -> dict[Pool, PoolLoad]:
        """Every pool since the last call; the next one counts from here."""
        found = {}
        for pool in [p for p, tracks in self._tracks.items() if self._drop_gone(now_s, tracks)]:
            found[pool] = self._pool(pool, now_s, fresh_s)
        self._power.clear()
        self._quality.clear()
        return found

    def _drop_gone(self, now_s: float, tracks: dict[str, _Track]) -> bool:
        for name in [n for n, track in tracks.items() if now_s - track.seen_s > FORGET_S]:
            del tracks[name]
        return bool(tracks)

    def _pool(self, pool: Pool, now_s: float, fresh_s: float) -> PoolLoad:
        tracks = self._tracks[pool]
        live = [t for t in tracks.values() if now_s - t.seen_s <= fresh_s]
        rates = [rates for t in live if (rates := _rates(t)) is not None]
        for t in live:
            t.first = t.last
        scale = len(live) / len(rates) if rates else 0.0
        rate = sum(r for r, _, _ in rates) * scale if rates else None
        running = [t.last for t in live if _known(t.last.running) and _known(t.last.kv_tokens)]
        sequences = sum(r.running or 0 for r in running)
        kinds = self._quality[pool]
        return PoolLoad(
            serving=len(live),
            known=len(rates),
            ever=len(tracks),
            nodes=len({t.node for t in live}),
            rate=rate,
            prompt_tokens=_each(rates, 1),
            output_tokens=_each(rates, 2),
            kv_each=sum(r.kv_tokens or 0 for r in running) / sequences if sequences else None,
            load=_mean_load(running, rates),
            power_w={side: p.total_w / p.count for side, p in self._power[pool].items() if p.count},
            gpus=sum(len(t.last.gpu_uuid) for t in live),
            quality="simulated" if "simulated" in kinds else min(kinds, default="measured"),
            learned=learned([t.last for t in live]),
            replicas=tuple(_replica(t, now_s - t.seen_s <= fresh_s) for t in tracks.values()),
        )


def _replica(track: _Track, live: bool) -> Replica:
    last = track.last
    busy = None if not _known(last.running) else (last.running or 0) + (last.waiting or 0) > 0
    idle = None if busy is None else not busy
    return Replica(last.engine, track.node, live, idle, track.side == "holdout", last.gpu_uuid)


def learned(readings: Iterable[EngineReading]) -> Learned:
    """Means over engines that a model follows; what no controller can have learned is left out."""
    told = [r.control for r in readings if r.control is not None and r.control.state in LEARNS]
    ours = [one for one in told if one.state == "controlled"]
    return Learned(
        engines=sum(one.decode_ratio is not None for one in told),
        decode_ratio=_mean_of([one.decode_ratio for one in told], RATIO),
        prefill_ratio=_mean_of([one.prefill_ratio for one in told], RATIO),
        slack=_mean_of([one.slack_ratio for one in ours], SLACK),
        wait_price_w=_mean_of([one.wait_price_w for one in ours], PRICE_W),
        meet=_mean_of([one.meet_ratio for one in ours], MEET),
        rolled_back=any(one.state == "rolled_back" for one in told),
    )


def _mean_of(values: Iterable[float | None], bounds: tuple[float, float]) -> float | None:
    known = [v for v in values if v is not None and bounds[0] <= v <= bounds[1]]
    return sum(known) / len(known) if known else None


def _went_back(last: EngineReading, new: EngineReading) -> bool:
    pairs = (
        (last.ts_ns, new.ts_ns),
        (last.requests_total, new.requests_total),
        (last.prompt_tokens_total, new.prompt_tokens_total),
        (last.generation_tokens_total, new.generation_tokens_total),
    )
    return any(a is not None and b is not None and b < a for a, b in pairs)


def _known(value: int | None) -> bool:
    return value is not None and 0 <= value < 10**12


def _rates(track: _Track) -> tuple[float, float | None, float | None] | None:
    """Requests, prompt tokens and generated tokens per second since the last step."""
    span = (track.last.ts_ns - track.first.ts_ns) / 1e9
    if span <= 0.0:
        return None
    requests = _per_s(track.first.requests_total, track.last.requests_total, span, MOST_RATE)
    if requests is None:
        return None
    prompts = _per_s(track.first.prompt_tokens_total, track.last.prompt_tokens_total, span, MOST_TOKENS)
    outputs = _per_s(track.first.generation_tokens_total, track.last.generation_tokens_total, span, MOST_TOKENS)
    return requests, prompts, outputs


def _per_s(first: int | None, last: int | None, span_s: float, most: float) -> float | None:
    if first is None or last is None:
        return None
    found = (last - first) / span_s
    return found if 0.0 <= found <= most else None


def _each(rates: list[tuple[float, float | None, float | None]], column: Literal[1, 2]) -> float | None:
    """Tokens of a request, over the engines that count both."""
    both = [(one[0], tokens) for one in rates if (tokens := one[column]) is not None]
    requests = sum(r for r, _ in both)
    return sum(t for _, t in both) / requests if requests > 0.0 else None


def _mean_load(readings: list[EngineReading], rates: list[tuple[float, float | None, float | None]]) -> LoadNow | None:
    prompts = [p for _, p, _ in rates if p is not None]
    if not readings or not prompts:
        return None
    count = len(readings)
    waiting = [r.waiting_tokens or 0 for r in readings if r.waiting_tokens is None or _known(r.waiting_tokens)]
    return LoadNow(
        running=sum(r.running or 0 for r in readings) / count,
        waiting_tokens=sum(waiting) / count,
        kv_tokens=sum(r.kv_tokens or 0 for r in readings) / count,
        prompt_tokens_per_s=sum(prompts) / len(prompts),
    )
