"""One series from calibration over the check to the replay under a strategy. Pure: targets come from a factory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from models.control.profiles import StackProfile, profile_for
from models.policy.strategies import Strategy
from models.twin.params import Kappa, TwinParams
from models.twin.workload import Workload
from models.whatif.arrivals import reconstruct
from models.whatif.control import StrategyControl, Tally, TargetsPort
from models.whatif.fit import KAPPAS, Ratios, apply, base, calibrate, repower
from models.whatif.judge import Check, check, objection, saving_interval
from models.whatif.replay import Outcome, at_default, run
from models.whatif.replicas import Fewer, Wall, bounds_ms, fewer, keeps, wall_saving
from models.whatif.series import KINDS, Bools, Kind, Series, quantile_ms

WARM_S: Final = 30.0  # the twin's queues fill, and what was in flight at the beginning ends
WHOLE_S: Final = 300.0  # a last part shorter than this: the whole range is replayed
_LOW: Final = 0.95  # of the highest clock
_TOLD: Final = 0.1  # share of engine seconds at low clocks, and at high ones, that tells
MakeTargets = Callable[[Series, "Outcome | None"], TargetsPort]


class Unfit(Exception):
    """The twin must not be used for this series; the text ends a sentence."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Calibrated on slots [0, first), checked on [first, second), replayed over `replayed`."""

    first: int
    second: int
    warm_s: float
    checked: Bools
    replayed: Bools
    whole: bool


@dataclass(frozen=True, slots=True)
class Variant:
    """One kappa variant: calibrated, checked, and, where the check holds, replayed."""

    kappa: Kappa
    ratios: Ratios
    residual: float  # mean error of engines' watts in the first part
    checks: list[Check]
    saving_default: float | None = None  # against the twin at default clocks
    saving_ran: float | None = None  # against the twin under what really ran
    interval_default: tuple[float, float] | None = None
    interval_ran: tuple[float, float] | None = None
    p99_ms: dict[str, dict[str, float | None]] | None = None
    bounds_ms: dict[Kind, float] = field(default_factory=dict)  # what the strategy allows each p99 to be
    bounds_kept: bool | None = None  # of the controlled engines
    tally: Tally | None = None
    wall: Wall | None = None  # clocks alone, all nodes on, against default clocks
    dropped_s: float = 0.0  # of the replay, before the first grant: the pools of a replay begin empty
    fewer: Fewer | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """All variants; `central` passed the second part, and fitted the first best where that could tell (else: mid)."""

    series: Series
    parts: Parts
    own_profile: bool
    length_share: float  # of requests whose length was measured
    requests: int
    clipped: int  # requests cut to half of the KV cache
    energy_ran_j: float  # measured, over the replayed slots, all engines of the series
    power_ran_w: float  # measured mean of one GPU
    p99_ran_ms: dict[str, float | None]  # measured
    variants: list[Variant]
    central: Variant
    shown_mhz: float  # the lowest clock that calibration and check have seen
    kappa_told: bool  # the first part saw low clocks, so its watts could choose the variant

    @property
    def energy_j(self) -> float:
        """Measured energy times the simulated change: what the twin has wrong in both runs cancels."""
        return self.energy_ran_j * (1.0 - (self.central.saving_ran or 0.0))


def cut(series: Series) -> Parts:
    """A third each; a short range is replayed whole, because clocks and queues need time to matter."""
    first, second = series.slots // 3, 2 * (series.slots // 3)
    warm_s = min(WARM_S, first * series.step_s / 3)
    settled, at = series.settled(warm_s), np.arange(series.slots)
    whole = (series.slots - second) * series.step_s < WHOLE_S
    checked = settled & (at >= first) & (at < second)
    return Parts(first, second, warm_s, checked, settled if whole else settled & (at >= second), whole)


def study(
    series: Series,
    strategy: Strategy,
    *,
    make_targets: MakeTargets,
    interval_s: float,
    budget_w: float | None = None,
    profile: StackProfile | None = None,
    kappas: tuple[Kappa, ...] = KAPPAS,
    seed: int = 1,
) -> Study:
    """Raises Unfit when no variant passes. `profile` overrides the stack's own (a test of a wrong one)."""
    known = profile or profile_for(series.stack)
    parts = cut(series)
    stack = base(series.machine, known, "mid", kv_limit_tokens=series.kv_limit_tokens)
    load = reconstruct(series, seed=seed, kv_limit_tokens=stack.kv_limit_tokens)
    work = load.work
    if len(work.arrival_s) == 0:
        raise Unfit("no request arrived in the range, so there is no load to replay")
    times = calibrate(series, work, stack, slots=parts.first, warm_s=parts.warm_s)
    variants = [_checked(series, work, parts, known, kappa, times) for kappa in kappas]
    fit = [one for one in variants if objection(one[0].checks) is None]
    if not fit:
        closest = min(variants, key=lambda one: _worst(one[0].checks))
        raise Unfit(objection(closest[0].checks) or "no variant passes")
    done: dict[Kappa, Variant] = {}
    defaults: dict[Kappa, tuple[TwinParams, Outcome]] = {}

    def _control(part: Series, reference: Outcome | None) -> StrategyControl:
        return StrategyControl(
            part,
            profile_for(series.stack),
            strategy,
            targets=make_targets(part, reference),
            interval_s=interval_s,
            shown_mhz=_shown_mhz(series, parts),
            shown_limit_w=_shown_limit_w(series, parts),
        )

    for variant, params, ran in fit:
        default = run(series=at_default(series), work=work, params=params)
        control = StrategyControl(
            series,
            profile_for(series.stack),
            strategy,
            targets=make_targets(series, None if series.holdout.any() else default),
            interval_s=interval_s,
            budget_w=budget_w,
            shown_mhz=_shown_mhz(series, parts),
            shown_limit_w=_shown_limit_w(series, parts),
        )
        ours = run(series, work, params, control=control)
        done[variant.kappa] = _compared(series, parts, variant, strategy, ran, default, ours, control.tally)
        defaults[variant.kappa] = (params, default)
    told = _clocks_varied(series, parts)
    central = min(done.values(), key=lambda one: one.residual if told or "mid" not in done else one.kappa != "mid")
    if budget_w is None:  # a ceiling is a share of all GPUs' budget; with fewer of them it would be another
        params, default = defaults[central.kappa]
        steady = _granted(series, parts, central.dropped_s)
        found = fewer(series, work, params, strategy, default, replayed=steady, make_control=_control)
        central = done[central.kappa] = replace(central, fewer=found)
    mean_w = series.mean_power_w(parts.replayed)
    seconds = int(parts.replayed.sum()) * series.step_s
    return Study(
        series=series,
        parts=parts,
        own_profile=profile_for(series.stack) is not None,
        length_share=load.measured_ratio,
        clipped=load.clipped,
        requests=len(work.arrival_s),
        energy_ran_j=mean_w * seconds * len(series.engines) * series.machine.gpus,
        power_ran_w=mean_w,
        p99_ran_ms={kind: _known(quantile_ms(series.hits[kind].within(parts.replayed), 0.99)) for kind in KINDS},
        variants=[done.get(one[0].kappa, one[0]) for one in variants],
        central=central,
        shown_mhz=_shown_mhz(series, parts),
        kappa_told=told,
    )


def _checked(
    series: Series, work: Workload, parts: Parts, known: StackProfile | None, kappa: Kappa, times: Ratios
) -> tuple[Variant, TwinParams, Outcome]:
    stack = base(series.machine, known, kappa, kv_limit_tokens=series.kv_limit_tokens)
    ratios, residual = repower(series, work, stack, times, slots=parts.first, warm_s=parts.warm_s)
    params = apply(stack, ratios)
    ran = run(series, work, params)
    return Variant(kappa, ratios, residual, check(series, ran, parts.checked)), params, ran


def _clocks_varied(series: Series, parts: Parts) -> bool:
    """Watts at one clock cannot tell the variants apart: they were fitted to the same full-clock data."""
    at = series.settled(parts.warm_s)[: parts.first]
    lock = series.lock_mhz[:, : parts.first][:, at]
    low = (lock > 0) & (lock < _LOW * series.machine.sm_max_mhz)
    return bool(_TOLD <= low.mean() <= 1.0 - _TOLD) if low.size else False


def _shown_mhz(series: Series, parts: Parts) -> float:
    """The lowest clock that calibration and check have seen: below it the twin is extrapolated."""
    lock = series.lock_mhz[:, : parts.second]
    return float(lock[lock > 0].min()) if (lock > 0).any() else series.machine.sm_max_mhz


def _shown_limit_w(series: Series, parts: Parts) -> float:
    """The lowest limit that calibration and check have seen: one below it can hold clocks where none was."""
    return float(np.nanmin(series.limit_w[:, : parts.second], initial=series.machine.limit_default_w))


def _worst(checks: list[Check]) -> float:
    return max(one.error_ratio / one.bound if one.error_ratio is not None else 1e9 * one.required for one in checks)


def _compared(
    series: Series,
    parts: Parts,
    variant: Variant,
    strategy: Strategy,
    ran: Outcome,
    default: Outcome,
    ours: Outcome,
    tally: Tally,
) -> Variant:
    dropped_s = _before_grant(parts, tally)
    slots = _granted(series, parts, dropped_s)
    limits = bounds_ms(strategy, default, slots)
    power = {name: one.power_w[:, slots].sum(axis=0) for name, one in (("r", ran), ("d", default), ("o", ours))}
    return replace(
        variant,
        saving_default=float(1.0 - power["o"].sum() / power["d"].sum()),
        saving_ran=float(1.0 - power["o"].sum() / power["r"].sum()),
        interval_default=saving_interval(power["o"], power["d"], step_s=series.step_s),
        interval_ran=saving_interval(power["o"], power["r"], step_s=series.step_s),
        p99_ms={
            kind: {
                "strategy_controlled": _known(ours.p99_ms(kind, slots, arm=0)),
                "default_controlled": _known(default.p99_ms(kind, slots, arm=0)),
                "ran_controlled": _known(ran.p99_ms(kind, slots, arm=0)),
            }
            for kind in KINDS
        },
        bounds_ms=limits,
        bounds_kept=keeps(ours, limits, slots),
        tally=tally,
        wall=_wall(series, default, ours, slots),
        dropped_s=dropped_s,
    )


def _before_grant(parts: Parts, tally: Tally) -> float:
    """Seconds until the strategy was first granted anything; none where the replay begins later, or it never was."""
    return tally.first_grant_s or 0.0 if parts.whole else 0.0


def _granted(series: Series, parts: Parts, dropped_s: float) -> Bools:
    """Replayed slots after the first grant, all of them where that would leave less than half.

    A product's pools hold the minutes before; those of a replay begin empty, and its first half minute grants nothing.
    """
    later: Bools = parts.replayed & (np.arange(series.slots) * series.step_s >= dropped_s)
    return later if 2 * later.sum() >= parts.replayed.sum() else parts.replayed


def _wall(series: Series, default: Outcome, ours: Outcome, slots: Bools) -> Wall:
    gpus = len(series.engines) * series.machine.gpus
    ours_w, default_w = (float(one.power_w[:, slots].mean()) for one in (ours, default))
    return wall_saving(ours_w, gpus_on=gpus, default_w=default_w, gpus=gpus)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
