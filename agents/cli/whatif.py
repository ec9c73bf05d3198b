"""`eo whatif`: what a strategy would have done on one's own archive, after the twin has shown that it fits.

Reads only. Every figure that comes from the twin is labelled simulated; a stack that the twin does not predict well
enough is refused with the error and its bound.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.base import DONE, REFUSED, USAGE, EoError

if TYPE_CHECKING:
    from agents.cli.whatif_archive import Material
    from models.policy.strategies import Strategy
    from models.whatif.replicas import Fewer, Wall
    from models.whatif.series import Series
    from models.whatif.study import Study, Variant

LEAST_ENGINE_SECONDS: Final = 600.0
_WORDS: Final = {
    "ml-driven": ("ml-driven is replayed by its bounds, those of balanced: what it would learn is not simulated",)
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example: eo whatif --archive data/archive --strategy aggressive\n"
        "example: eo whatif --archive data/archive --from 2h --strategy balanced --budget-w 90000 --json whatif.json"
    )
    parser.add_argument(
        "--archive", type=Path, default=None, metavar="DIR", help="archive (default: the data folder's)"
    )
    parser.add_argument("--from", dest="start", default=None, metavar="T", help="2h, or 2026-01-01T00:00:00Z")
    parser.add_argument("--to", dest="end", default=None, metavar="T", help="end of the range, in the same form")
    parser.add_argument(
        "--strategy", default="balanced", help="conservative, balanced (default), aggressive, ml-driven"
    )
    parser.add_argument("--budget-w", type=float, default=None, metavar="W", help="bound on the sum of power ceilings")
    parser.add_argument(
        "--engine-seconds",
        type=float,
        default=24_000.0,
        metavar="N",
        help="most engine seconds that are simulated (24000: about three minutes); a longer range is cut into blocks",
    )
    parser.add_argument(
        "--json", nargs="?", const=True, default=False, metavar="OUT", help="print as JSON, or write it to OUT"
    )


def run(args: argparse.Namespace) -> int:
    from agents.cli.bench import check_outputs, deliver
    from agents.cli.whatif_archive import read
    from agents.cli.whatif_text import page
    from streams.contract.layout import Layout

    check_outputs(args)
    chosen = _strategy(args)
    archive = args.archive or Layout.from_env().archive
    now = time.time_ns()
    start, end = (_moment(text, now) for text in (args.start, args.end))
    if start is not None and end is not None and start >= end:
        raise EoError(f"--from {args.start} is not before --to {args.end}; give a range that goes forward", USAGE)
    begun = time.perf_counter()
    material = read(archive, start_ns=start, end_ns=end, engine_seconds=args.engine_seconds)
    result = answer(material, chosen, budget_w=args.budget_w)
    result["archive"], result["seconds"] = str(archive), round(time.perf_counter() - begun, 1)
    deliver(args, result, page(result))
    return DONE


def _strategy(args: argparse.Namespace) -> Strategy:
    from models.policy.strategies import strategy

    if not math.isfinite(args.engine_seconds):
        raise EoError(
            f"--engine-seconds {args.engine_seconds:g} is no finite number; give {LEAST_ENGINE_SECONDS:g} or more, "
            "such as 24000",
            USAGE,
        )
    if args.engine_seconds < LEAST_ENGINE_SECONDS:
        raise EoError(f"--engine-seconds {args.engine_seconds:g} is below {LEAST_ENGINE_SECONDS:g}; give more", USAGE)
    if args.budget_w is not None and not 0 < args.budget_w < float("inf"):
        raise EoError(
            f"--budget-w {args.budget_w:g} is not above 0 and finite; give watts for all GPUs together", USAGE
        )
    try:
        return strategy(args.strategy)
    except ValueError as error:
        raise EoError(f"{error}.", USAGE) from error


def _moment(text: str | None, now_ns: int) -> int | None:
    from agents.cli.features import time_ns

    return None if text is None else time_ns(text, now_ns)


def answer(material: Material, strategy: Strategy, *, budget_w: float | None) -> dict[str, Any]:
    """The whole result; raises EoError(REFUSED) when no stack may be used or the budget cannot be kept."""
    from models.whatif.study import Unfit, study

    bounds = ceilings(material, budget_w)
    done: list[tuple[Study, float]] = []
    refused: list[dict[str, str]] = []
    for series, ceiling, weight in zip(material.series, bounds, material.weights, strict=True):
        print(
            f"eo whatif: simulating {len(series.engines)} engines, {series.seconds:.0f} s", file=sys.stderr, flush=True
        )
        try:
            done.append((_study(study, series, strategy, ceiling), weight))
        except Unfit as error:
            refused.append({"stack": series.stack, "workload": series.workload, "reason": str(error)})
    if not done:
        first = refused[0]
        raise EoError(
            f"no what-if for {first['stack']}: {first['reason']}; measure a stack profile or choose another range",
            REFUSED,
        )
    return _result(material, strategy, done, refused, budget_w)


def _study(study: Any, series: Series, strategy: Strategy, ceiling: float | None) -> Study:
    from agents.cli.whatif_policy import PooledTargets
    from streams.jobs.actuation_state import Options
    from streams.settings import WorkerSettings

    window_s = next(float(one.default) for one in fields(Options) if one.name == "latency_window_s")  # type: ignore[arg-type]
    interval_s = float(WorkerSettings.model_fields["envelope_interval_s"].default)
    found: Study = study(
        series,
        strategy,
        make_targets=lambda of, reference: PooledTargets(of, strategy, window_s=window_s, reference=reference),
        interval_s=interval_s,
        budget_w=ceiling,
    )
    return found


def ceilings(material: Material, budget_w: float | None) -> list[float | None]:
    """Of one controlled GPU of each series; refuses a budget below the floor."""
    from models.policy.budget import BudgetTooLow, Member, allocate

    if budget_w is None:
        return [None] * len(material.series)
    members, controlled = [Member("unsteered", material.others_w, material.others_w)], []
    for index, (series, weight) in enumerate(zip(material.series, material.weights, strict=True)):
        machine, held = series.machine, int(series.holdout.sum())
        held_w = held * machine.gpus * weight * machine.limit_default_w
        count = (len(series.engines) - held) * machine.gpus * weight
        members.append(Member(f"held {index}", held_w, held_w))
        members.append(Member(f"free {index}", count * machine.limit_min_w, count * machine.limit_default_w))
        controlled.append(count)
    try:
        granted = allocate(budget_w, members).ceilings_w
    except BudgetTooLow as error:
        raise EoError(
            f"--budget-w {budget_w:g} is below the floor: hold-out and unsteered GPUs at default and the others at "
            f"their lowest limit need {error.least_w:.0f} W; the least feasible budget is {math.ceil(error.least_w)} W",
            REFUSED,
        ) from error
    return [granted[f"free {index}"] / count if count else None for index, count in enumerate(controlled)]


def _result(
    material: Material,
    strategy: Strategy,
    done: list[tuple[Study, float]],
    refused: list[dict[str, str]],
    budget_w: float | None,
) -> dict[str, Any]:
    from agents.cli.whatif_archive import at

    gpus = sum(len(one.series.engines) * one.series.machine.gpus for one, _ in done)
    engines = sum(len(one.series.engines) for one, _ in done)
    replayed_s = sum(len(one.series.engines) * int(one.parts.replayed.sum()) * one.series.step_s for one, _ in done)
    whole_s = material.engines_total * material.seconds_total
    return {
        "label": "SIMULATED: what-if figures come from the twin; `measured` ones from the archive",
        "strategy": strategy.name,
        "range": {"from": at(material.start_ns), "to": at(material.end_ns)},
        "really_ran": list(material.strategies),
        "shares": {
            "archive_rows": {name: round(share, 4) for name, share in material.quality.items()},
            "replayed_of_engine_time": round(replayed_s / whole_s, 4) if whole_s else None,
            "figures_simulated": 1.0,
        },
        "engines": {"replayed": engines, "in_range": material.engines_total, "gpus_replayed": gpus},
        "stacks": [_stack(one, material) for one, _ in done],
        "refused": refused,
        "budget": None if budget_w is None else _budget(material, done, budget_w),
        "notes": [*material.notes, *_WORDS.get(strategy.name, ())],
    }


def _budget(material: Material, done: list[tuple[Study, float]], budget_w: float) -> dict[str, Any]:
    rows = [(one.central.tally, weight) for one, weight in done if one.central.tally is not None]
    highest = material.others_w + sum(tally.highest_ceilings_w * weight for tally, weight in rows)
    return {
        "asked_w": budget_w,
        "highest_sum_of_ceilings_w": round(highest),
        "bounds_kept": all(one.central.bounds_kept for one, _ in done),
        "engine_s_without_ceiling": round(sum(tally.uncapped_s for tally, _ in rows), 1),
        "note": "latency goes before budget: no ceiling while its targets are unknown or rolled back",
    }


def _stack(one: Study, material: Material) -> dict[str, Any]:
    central, series = one.central, one.series
    tally = central.tally
    if tally is None or central.p99_ms is None:
        raise ValueError("a study's central variant has been replayed")
    hours = series.seconds / 3600
    flagged = material.flagged[material.series.index(series)]
    return {
        "stack": series.stack,
        "workload": series.workload,
        "gpu": series.machine.name,
        "engines": len(series.engines),
        "holdout_engines": int(series.holdout.sum()),
        "holdout_from": "the archive" if flagged else "hash" if series.holdout.any() else "twin at default",
        "profile": "own" if one.own_profile else "borrowed",
        "requests": one.requests,
        "lengths_measured_ratio": round(one.length_share, 3),
        "requests_clipped": one.clipped,
        "calibrated_s": one.parts.first * series.step_s,
        "checked_s": int(one.parts.checked.sum()) * series.step_s,
        "replayed_s": int(one.parts.replayed.sum()) * series.step_s,
        "replayed": "whole range" if one.parts.whole else "last third",
        "ratios": asdict(central.ratios),
        "kappa": central.kappa,
        "kappa_from": "watts at several clocks" if one.kappa_told else "assumed: the first part saw one clock",
        "check": [{**asdict(row), "passed": row.passed} for row in central.checks],
        "measured": {"energy_j": one.energy_ran_j, "power_w": one.power_ran_w, "p99_ms": one.p99_ran_ms},
        "whatif": {
            "energy_j": one.energy_j,
            "power_w": one.power_ran_w * (1.0 - (central.saving_ran or 0.0)),
            "saving_ratio": {"against_default": central.saving_default, "against_what_ran": central.saving_ran},
            "interval": _intervals(one.variants),
            "p99_ms": central.p99_ms,
            "bounds": {"p99_ms": central.bounds_ms, "kept": central.bounds_kept},
            "wall": None if central.wall is None else _wall(central.wall),
            "warm_up_dropped_s": central.dropped_s,
            "replicas": None if central.fewer is None else _fewer(central.fewer),
            "quality": "simulated",
            "extrapolated": {
                "ratio": tally.extrapolated_s / (series.seconds * len(series.engines)),
                "by_limit_ratio": tally.limited_s / (series.seconds * len(series.engines)),
                "lowest_mhz": tally.lowest_mhz,
                "unclaimed": _unclaimed(tally.lowest_mhz, series),
                "lowest_shown_mhz": one.shown_mhz,
            },
        },
        "commands": {
            "envelopes": tally.rounds * material.nodes,
            "clock_changes": tally.clock_changes,
            "clock_changes_per_engine_hour": tally.clock_changes / len(series.engines) / hours,
            "limit_changes": tally.limit_changes,
            "granted_ratio": tally.granted_s / (series.seconds * len(series.engines)),
        },
        "variants": [_variant(row) for row in one.variants],
    }


def _unclaimed(lowest_mhz: float | None, series: Series) -> list[str]:
    """What no published curve holds for, in words; nothing where clocks stay above."""
    from models.policy.extrapolation import beyond

    ratios = [] if lowest_mhz is None else [lowest_mhz / series.machine.sm_max_mhz]
    return beyond(series.stack, running=(), clock_ratios=ratios)


def _wall(one: Wall) -> dict[str, Any]:
    return {
        "saving_against_default": one.saving,
        "interval_of_assumed_nodes": list(one.interval),
        "quality": "simulated; host, fans and supplies assumed (models/twin/data/assumed.json)",
    }


def _fewer(one: Fewer) -> dict[str, Any]:
    return {
        "controlled": one.controlled,
        "fewest_within_bounds": one.fewest,
        "on_with_spare": one.on,
        "off": one.off,
        "gpu_saving_against_default": one.gpu_saving,
        "gpu_saving_of_replicas_alone": one.gpu_saving_replicas,
        "wall": None if one.wall is None else _wall(one.wall),
        "p99_ms": one.p99_ms,
        "bounds_kept": one.kept,
        "extrapolated": one.extrapolated,
        "sequences_per_engine": {"expected": one.crowd, "shown_p99": one.shown_crowd} if one.off else None,
        "quality": "simulated",
    }


def _intervals(variants: list[Variant]) -> dict[str, list[float] | None]:
    """What the passing variants and their bootstraps span; unknown when a range is too short for blocks."""

    def span(pairs: list[tuple[float, float] | None]) -> list[float] | None:
        known = [pair for pair in pairs if pair is not None]
        return [min(low for low, _ in known), max(high for _, high in known)] if known else None

    ran = [one for one in variants if one.saving_default is not None]
    return {
        "against_default": span([one.interval_default for one in ran]),
        "against_what_ran": span([one.interval_ran for one in ran]),
    }


def _variant(one: Variant) -> dict[str, Any]:
    return {
        "kappa": one.kappa,
        "passed": all(row.passed for row in one.checks),
        "errors": {row.quantity: row.error_ratio for row in one.checks},
        "saving_against_default": one.saving_default,
        "saving_against_what_ran": one.saving_ran,
    }
