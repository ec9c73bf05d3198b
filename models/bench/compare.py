"""A comparison: one workload, one fleet, several policies, seeds and kappa variants; out come plain dictionaries.

A saving is 1 - energy / baseline energy. A request is missed when its first token took over 2 s or the mean time
between its tokens is over 100 ms. Everything is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from time import process_time
from typing import Any, Final

import numpy as np

from models.bench import state as st
from models.bench.fleet import curve_work, scale_for, size, stream_work
from models.bench.follow import Follow, fit
from models.bench.hosts import resting_hosts
from models.bench.load import DAY_S, Curve, Stream, draw
from models.bench.protocol import Reference, b0, b1, perfect, strategy
from models.bench.rivals import matched, rivals, tune
from models.bench.run import METRICS, Case, Outcome, Policy, mean_s, run
from models.control.equations import Plant
from models.control.predict import plant_of
from models.twin.params import variant

JUDGED_FROM: Final = 3  # days 0-2 are for tuning
TUNING_S: Final = 8 * 3600.0  # of each rival's candidates
REFERENCE_S: Final = DAY_S  # of B0: the busiest day of the tuning days, which is where its p99s come from
LEAST_IN_HOUR: Final = 100  # requests below which an hour's p99 says nothing
SLO_S: Final = {"ttft": 2.0, "tbt": 0.1}
# Two-sided 95 % of Student's t for 1..9 degrees of freedom.
_T95: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is compared on: a curve (days, drawn anew for each seed) or a recording."""

    name: str
    curve: Curve | None = None
    stream: Stream | None = None
    days: float | None = None  # judged days; None = all
    seeds: int = 1
    kappas: tuple[str, ...] = ("mid",)
    tick_s: float = 0.1
    delay_s: float = 0.1


@dataclass(slots=True)
class Comparison:
    """Runs policies once each per (kappa, seed) and remembers the outcomes."""

    setup: Setup
    say: Say = lambda _: None
    belief: Plant = field(default_factory=lambda: truth_of("mid"))
    _cases: dict[tuple[str, int], Case] = field(default_factory=dict)
    _runs: dict[tuple[str, int, str], Outcome] = field(default_factory=dict)
    _bases: dict[str, Reference] = field(default_factory=dict)

    # --- cases -------------------------------------------------------------------------------------------------

    def scale(self) -> float:
        curve = self.setup.curve
        return 1.0 if curve is None else scale_for(curve, self.belief)

    def replicas(self) -> int:
        """The fleet for the peak of the whole trace, tuning days included."""
        if self.setup.curve is not None:
            return size(curve_work(self.setup.curve.scaled(self.scale())), self.belief)
        assert self.setup.stream is not None
        return size(stream_work(self.setup.stream), self.belief)

    def window(self) -> tuple[float, float]:
        """Judged seconds on the curve's time: from day 3 where there are such days."""
        curve = self.setup.curve
        assert curve is not None
        whole = curve.days
        first = float(JUDGED_FROM) if whole > JUDGED_FROM + 0.5 else 0.0
        last = whole if self.setup.days is None else min(whole, first + self.setup.days)
        return first * DAY_S, last * DAY_S

    def case(self, kappa: str, seed: int) -> Case:
        """The same requests for every policy of a seed."""
        key = (kappa, seed)
        if key not in self._cases:
            self._cases[key] = self._case(kappa, seed)
        return self._cases[key]

    def _case(self, kappa: str, seed: int) -> Case:
        setup = self.setup
        if setup.curve is None:
            assert setup.stream is not None
            stream = _first_days(setup.stream, setup.days)
            return Case(stream, self.replicas(), truth_of(kappa), self.belief, history=_smooth(stream))
        curve = setup.curve.scaled(self.scale())
        first, last = self.window()
        stream = draw(curve, from_s=first, to_s=last, seed=1000 + seed)
        return Case(stream, self.replicas(), truth_of(kappa), self.belief, history=curve, start_s=first)

    def base(self, kappa: str) -> Reference:
        """B0's percentiles on the tuning days (seed of their own); of the recording where there are none."""
        if kappa not in self._bases:
            self.say("b0 on the tuning days")
            self._bases[kappa] = self.reference_of(b0(), kappa)
        return self._bases[kappa]

    def reference_of(self, policy: Policy, kappa: str) -> Reference:
        """A policy's own percentiles, where `base` has B0's."""
        if self.setup.curve is None or self.window()[0] == 0.0:
            found = self.outcome(policy, kappa, 0)
        else:
            found = run(self.tuning_case(kappa, REFERENCE_S), policy)
        tuned = self.setup.curve is not None and self.window()[0] > 0.0
        return Reference(
            **{f"{metric}_s": found.quantile_s(metric, 0.99) for metric in METRICS},
            gap_s=mean_s(found.hist[METRICS.index("tbt")].sum(axis=0)),
            follow=_follow(found) if tuned else None,
        )

    def tuning_case(self, kappa: str, span_s: float) -> Case:
        """The busiest hours of the tuning days, with a seed of their own."""
        assert self.setup.curve is not None
        scaled = self.setup.curve.scaled(self.scale())
        begin = busiest_s(scaled, JUDGED_FROM * DAY_S, span_s)
        stream = draw(scaled, from_s=begin, to_s=begin + span_s, seed=77)
        return Case(stream, self.replicas(), truth_of(kappa), self.belief, history=scaled, start_s=begin)

    # --- runs --------------------------------------------------------------------------------------------------

    def outcome(self, policy: Policy, kappa: str, seed: int) -> Outcome:
        key = (kappa, seed, policy.name)
        if key not in self._runs:
            self.say(f"{policy.name}, kappa {kappa}, seed {seed}")
            self._runs[key] = run(self.case(kappa, seed), policy)
        return self._runs[key]

    def forget_streams(self) -> None:
        """Frees the requests of finished seeds."""
        self._cases.clear()

    def row(self, make: Callable[[Reference], Policy], *, reference: bool = False) -> dict[str, Any]:
        """One policy over all seeds and kappa variants against b0 and b1."""
        pairs = [(kappa, seed) for kappa in self.setup.kappas for seed in range(self.setup.seeds)]
        cells = []
        for kappa, seed in pairs:
            policy = make(self.base(kappa))
            mine = self.outcome(policy, kappa, seed)
            zero, one = self.outcome(b0(), kappa, seed), self.outcome(b1(), kappa, seed)
            best = self.outcome(perfect(policy), kappa, seed) if reference else None
            cells.append(cell(mine, zero, one, best))
        mid = [c for c, (kappa, _) in zip(cells, pairs, strict=True) if kappa == "mid"] or cells
        result = mean_of(mid)
        result["saving_interval"] = interval(cells, mid, len(self.setup.kappas) > 1)
        return result

    def baseline(self, policy: Policy) -> dict[str, Any]:
        """B0 or B1 with the result's keys where they apply."""
        found = self.row(lambda _: policy)
        kappa = "mid" if "mid" in self.setup.kappas else self.setup.kappas[0]
        outcomes = [self.outcome(policy, kappa, seed) for seed in range(self.setup.seeds)]
        found["p99_ms"] = {m: _mean(1e3 * o.quantile_s(m, 0.99) for o in outcomes) for m in METRICS}
        return found


def _follow(found: Outcome) -> Follow:
    """How a policy's p99s of an hour depend on its rate."""
    rates = found.hours[:, st.H_REQUESTS] / 3600.0
    hours = range(len(rates))
    return Follow(*(fit(rates, np.array([found.quantile_s(m, 0.99, h) for h in hours])) for m in ("ttft", "e2e")))


def busiest_s(curve: Curve, until_s: float, span_s: float) -> float:
    """Where the span of highest mean rate begins, before until_s."""
    grid = np.arange(0.0, until_s, 600.0)
    rate = curve.at(grid)
    width = int(span_s / 600.0)
    means = np.convolve(rate, np.ones(width) / width, mode="valid")
    return float(grid[int(means.argmax())])


def truth_of(kappa: str) -> Plant:
    """The stack with a kappa, or with a kappa and a loss of speed at low clocks (`mid/low`)."""
    kappa, _, loss = kappa.partition("/")
    return plant_of(variant(kappa=kappa, clock_loss=loss or "mid").stack)  # type: ignore[arg-type]


def cell(mine: Outcome, zero: Outcome, one: Outcome, best: Outcome | None) -> dict[str, Any]:
    """One run against its baselines, as the numbers that are averaged over seeds."""
    requests, tokens = mine.total(st.H_REQUESTS), mine.total(st.H_OUTPUT)
    gpu, wall = float(mine.gpu_j.sum()), float(mine.wall_j.sum())
    savings = {
        name: {base: 1.0 - value / _joules(o, name) for base, o in (("b0", zero), ("b1", one))}
        for name, value in (("gpu", gpu), ("wall", wall))
    }
    reference: dict[str, float | None] = {"gpu": None, "wall": None}
    if best is not None:
        reference = {
            name: _share(savings[name]["b0"], 1.0 - _joules(best, name) / _joules(zero, name))
            for name in ("gpu", "wall")
        }
    return {
        "gpu_saving_ratio": savings["gpu"],
        "wall_saving_ratio": savings["wall"],
        **resting_hosts(mine, zero, one),
        "p99_change_ratio": {m: _change(mine.quantile_s(m, 0.99), zero.quantile_s(m, 0.99)) for m in METRICS},
        "p99_ms": {m: 1e3 * mine.quantile_s(m, 0.99) for m in METRICS},
        "p50_ms": {m: 1e3 * mine.quantile_s(m, 0.5) for m in METRICS},
        "worst_hour": worst_hour(mine),
        "hours_outside_slo": hours_outside(mine),
        "hours": sum(1 for _ in _full_hours(mine)),
        "missed_ratio": mine.total(st.H_MISSED) / requests if requests else None,
        "slow_gaps_ratio": mine.total(st.H_SLOW_GAPS) / max(mine.total(st.H_GAPS), 1.0),
        "joules_per_request": gpu / requests if requests else None,
        "joules_per_token": gpu / tokens if tokens else None,
        "wall_joules_per_request": wall / requests if requests else None,
        "reference_share": reference,
        "mean_clock_ratio": mine.total(st.H_X_S) / max(mine.total(st.H_BUSY_S), 1e-9),
        "extrapolated_ratio": mine.total(st.H_DEEP_S) / max(mine.total(st.H_BUSY_S), 1e-9),
        "mean_replicas": mine.total(st.H_ON_S) / mine.span_s if mine.span_s > 0.0 else None,
        "starts": mine.starts,
        "peak_wall_w": mine.peak_w,
    }


def _joules(outcome: Outcome, name: str) -> float:
    return float(getattr(outcome, f"{name}_j").sum())


def _full_hours(outcome: Outcome) -> Iterable[int]:
    return (h for h in range(len(outcome.hours)) if outcome.hours[h, st.H_REQUESTS] >= LEAST_IN_HOUR)


def worst_hour(outcome: Outcome) -> dict[str, Any]:
    """The worst p99 of any hour; `at` is the hour of the worst first token."""
    hours = list(_full_hours(outcome))
    if not hours:
        return {"p99_ttft_ms": None, "p99_tbt_ms": None, "at": None}
    ttft = {h: 1e3 * outcome.quantile_s("ttft", 0.99, h) for h in hours}
    tbt = [1e3 * outcome.quantile_s("tbt", 0.99, h) for h in hours]
    at = max(ttft, key=lambda h: ttft[h])
    known = [value for value in tbt if isfinite(value)]
    return {"p99_ttft_ms": ttft[at], "p99_tbt_ms": max(known) if known else None, "at": at}


def hours_outside(outcome: Outcome) -> int:
    """Hours in which a p99 left the absolute SLO."""
    return sum(1 for h in _full_hours(outcome) if any(outcome.quantile_s(m, 0.99, h) > SLO_S[m] for m in SLO_S))


def by_hour(outcome: Outcome) -> dict[str, list[float | None]]:
    """An outcome's hours as columns: kWh, milliseconds, mean replicas on; None where too few requests came."""
    full = set(_full_hours(outcome))
    hours = range(len(outcome.hours))
    found: dict[str, list[float | None]] = {
        "gpu_kwh": [float(j) / 3.6e6 for j in outcome.gpu_j],
        "wall_kwh": [float(j) / 3.6e6 for j in outcome.wall_j],
        "requests": [float(n) for n in outcome.hours[:, st.H_REQUESTS]],
        "replicas": [float(s) / 3600.0 for s in outcome.hours[:, st.H_ON_S]],
    }
    for metric in METRICS:
        found[f"p99_{metric}_ms"] = [1e3 * outcome.quantile_s(metric, 0.99, h) if h in full else None for h in hours]
    return found


def mean_of(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds; the worst of the worst hours, the sum of hours outside."""
    found: dict[str, Any] = {}
    for key, value in cells[0].items():
        column = [c[key] for c in cells]
        if key == "worst_hour":
            found[key] = max(column, key=lambda w: w["p99_ttft_ms"] or 0.0) | {
                "p99_tbt_ms": max((w["p99_tbt_ms"] for w in column if w["p99_tbt_ms"] is not None), default=None)
            }
        elif key in ("hours_outside_slo", "hours"):
            found[key] = sum(column)
        elif key == "peak_wall_w":
            found[key] = max(column)
        elif isinstance(value, dict):
            found[key] = {name: _mean(c[name] for c in column) for name in value}
        else:
            found[key] = _mean(column)
    return found


def interval(cells: list[dict[str, Any]], mid: list[dict[str, Any]], over_kappa: bool) -> dict[str, Any]:
    """Spread of the saving below b0: the variants' range where several were run, else 95 % over seeds."""
    names = {"gpu": "gpu_saving_ratio", "wall": "wall_saving_ratio"}
    if over_kappa:
        values = {name: [c[key]["b0"] for c in cells] for name, key in names.items()}
        return {"over": "kappa", **{name: [min(v), max(v)] for name, v in values.items()}}
    if len(mid) < 2:
        return {"over": "one seed", "gpu": None, "wall": None}
    found: dict[str, Any] = {"over": "seeds, 95 %"}
    for name, key in names.items():
        v = np.array([c[key]["b0"] for c in mid])
        half = _T95[min(len(v) - 2, 8)] * float(v.std(ddof=1)) / sqrt(len(v))
        found[name] = [float(v.mean()) - half, float(v.mean()) + half]
    return found


def _share(mine: float, best: float) -> float | None:
    return mine / best if best > 1e-6 else None


def _change(mine: float, base: float) -> float | None:
    return mine / base - 1.0 if isfinite(mine) and isfinite(base) and base > 0.0 else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None and isfinite(v)]
    return sum(known) / len(known) if known else None


def _first_days(stream: Stream, days: float | None) -> Stream:
    if days is None or stream.seconds <= days * DAY_S:
        return stream
    keep = int(np.searchsorted(stream.arrival_s, days * DAY_S))
    return replace(
        stream,
        arrival_s=stream.arrival_s[:keep],
        prompt=stream.prompt[:keep],
        output=stream.output[:keep],
        seconds=days * DAY_S,
    )


def _smooth(stream: Stream) -> Curve:
    """The recording's own rate, minute by minute: what the perfect-load reference knows."""
    from models.bench.load import Lengths

    counts = np.bincount((stream.arrival_s // 60.0).astype(np.int64), minlength=2).astype(np.float64)
    unit = np.array([0.0, 1.0])
    return Curve(
        (np.arange(len(counts), dtype=np.float64) + 0.5) * 60.0,
        (counts / 60.0).astype(np.float64),
        Lengths(unit, unit, unit, unit),
        0.0,
    )


def all_rivals(compare: Comparison) -> list[dict[str, Any]]:
    """Every rival with its source, in the result's keys, and ours at that rival's own latency (`ours`)."""
    return [_beside(compare, policy) for policy in rivals(compare.setup.name)]


def _beside(compare: Comparison, policy: Policy) -> dict[str, Any]:
    its = compare.reference_of(policy, compare.setup.kappas[0])
    ours = compare.row(lambda base: matched(policy.name, base, its))
    return {"name": policy.name, "source": policy.source} | compare.row(lambda _: policy) | {"ours": ours}


def tuned_rivals(compare: Comparison) -> dict[str, int]:
    """What tuning chooses on the busiest hours of the tuning days: how `rivals.CHOSEN` was made."""
    case = compare.tuning_case("mid", TUNING_S)

    def judge(policy: Policy) -> tuple[int, float, float]:
        found = run(case, policy)
        missed = found.total(st.H_MISSED) / max(found.total(st.H_REQUESTS), 1.0)
        return hours_outside(found), missed, float(found.gpu_j.sum())

    return tune(judge)


def report(
    setup: Setup, names: tuple[str, ...], *, shown: str, with_rivals: bool, with_reference: tuple[str, ...], say: Say
) -> dict[str, Any]:
    """The whole answer of `eo bench control` as a dictionary."""
    began = process_time()
    compare = Comparison(setup, say)

    def ours(name: str) -> Callable[[Reference], Policy]:
        return lambda base: strategy(name, base, tick_s=setup.tick_s, delay_s=setup.delay_s)

    results = {name: compare.row(ours(name), reference=name in with_reference) for name in names}
    found: dict[str, Any] = {
        "workload": setup.name,
        "strategy": shown,
        "days": setup.days if setup.days is not None else "all",
        "seeds": setup.seeds,
        "kappa": "all" if len(setup.kappas) > 1 else setup.kappas[0],
        "fleet": {
            "replicas": compare.replicas(),
            "gpus": int(compare.replicas() * compare.belief.gpus),
            "scale": compare.scale(),
        },
        "quality": "simulated",
        "result": results[names[0]] if len(names) == 1 else results.get("balanced"),
        "results": results,
        "baselines": {"b0": compare.baseline(b0()), "b1": compare.baseline(b1())},
        "rivals": all_rivals(compare) if with_rivals else [],
        "notes": {} if setup.stream is None else setup.stream.notes,
    }
    found["seconds"] = process_time() - began
    return found
