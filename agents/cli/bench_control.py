"""`eo bench control`: strategies, baselines and rivals on request traces, on the compiled twin. All simulated."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.base import DONE, USAGE, EoError

if TYPE_CHECKING:
    from models.bench.compare import Setup

STRATEGIES: Final = ("conservative", "balanced", "aggressive", "ml-driven")
KAPPAS: Final = ("low", "mid", "high")
LEAST_DAYS: Final = 1.0 / 1440.0
PER_KWH: Final = {"price-per-kwh": "price of a kWh at the wall, any currency", "g-per-kwh": "grams of CO2e of a kWh"}
PER_KWH_BOUNDS: Final = {"price-per-kwh": (-10.0, 100.0), "g-per-kwh": (0.0, 5000.0)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workload", default=None, metavar="NAME", help="control: a trace that ships, azure-code-2024 ..."
    )
    parser.add_argument("--requests", type=Path, default=None, metavar="CSV", help="control: own requests")
    parser.add_argument("--rates", type=Path, default=None, metavar="CSV", help="control: own request rates")
    parser.add_argument(
        "--lengths", type=Path, default=None, metavar="CSV", help="control: length distribution for --rates"
    )
    parser.add_argument(
        "--lengths-service", default=None, metavar="NAME", help="control: which service of --lengths, if it has several"
    )
    parser.add_argument("--strategy", default="balanced", choices=(*STRATEGIES, "all", "rivals"), help="control: which")
    parser.add_argument("--days", default="all", help="control: judged days, a number or all (default all)")
    parser.add_argument("--seeds", type=int, default=1, help="control: streams drawn from a rate curve (default 1)")
    parser.add_argument(
        "--kappa", default="mid", choices=(*KAPPAS, "all"), help="control: clock-dependent share of power"
    )
    parser.add_argument("--baseline", default="b0,b1", help="control: baselines to report (default b0,b1)")
    parser.add_argument("--no-reference", action="store_true", help="control: leave out the perfect-load reference")
    parser.add_argument("--pareto", action="store_true", help="control: energy against latency, dominated points shown")
    for name, words in PER_KWH.items():
        parser.add_argument(f"--{name}", type=float, default=None, metavar="N", help=f"control: {words}, with --pareto")


def run(args: argparse.Namespace) -> int:
    from agents.cli.bench import put

    result = measure(args)
    text = json.dumps(result, indent=1, allow_nan=False)
    if isinstance(args.json, str):
        put(Path(args.json), text + "\n")
    if args.json is not True:
        from agents.cli.bench_control_text import table

        text = table(result)
    print(text)
    return DONE


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs what the arguments ask for."""
    days, seeds, wanted = _days(args.days), args.seeds, _baselines(args.baseline)
    if not 1 <= seeds <= 50:
        raise EoError(f"--seeds {seeds} is outside 1..50; choose a number in between", USAGE)
    if args.lengths is not None and args.rates is None:
        raise EoError("--lengths goes with --rates; a recording of requests has its own lengths", USAGE)
    if args.lengths_service is not None and args.lengths is None:
        raise EoError("--lengths-service chooses a service of --lengths; give --lengths FILE with it", USAGE)
    price, grams = (_per_kwh(args, name) for name in PER_KWH)
    from agents.cli.bench_control_text import warnings
    from agents.cli.bench_inputs import workload
    from models.bench.compare import Setup, report, truth_of
    from models.bench.compiled import BenchUnavailable

    load = workload(args, kv_limit=truth_of("mid").kv_limit_tokens)
    for sentence in load.warnings:  # before minutes of simulation, too
        print(f"  {sentence}", file=sys.stderr, flush=True)
    setup = Setup(
        load.name,
        curve=load.curve,
        stream=load.stream,
        days=days,
        seeds=seeds if load.curve is not None else 1,
        kappas=KAPPAS if args.kappa == "all" else (args.kappa,),
    )
    names = STRATEGIES if args.strategy in ("all", "rivals") else (args.strategy,)
    try:
        found = report(
            setup,
            names,
            shown=args.strategy,
            with_rivals=args.strategy == "rivals",
            with_reference=() if args.no_reference else names,
            say=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        )
    except BenchUnavailable as error:
        raise EoError(str(error)) from error
    if found["baselines"]["b0"]["joules_per_request"] is None:
        raise EoError(
            f"no request of {load.name} was served in the judged days, so nothing can be compared; "
            "give more --days, or a load of more requests",
            USAGE,
        )
    found["notes"] = found["notes"] or _drawn(setup)
    found["warnings"] = [*load.warnings, *warnings(found, seeds_asked=seeds)]
    found["baselines"] = {name: found["baselines"][name] for name in wanted}
    if args.pareto:
        from models.policy.pareto import front

        found["pareto"] = front(found, price_per_kwh=price, g_per_kwh=grams)
    return found


def _per_kwh(args: argparse.Namespace, name: str) -> float | None:
    value: float | None = getattr(args, name.replace("-", "_"))
    if value is None:
        return None
    if not args.pareto:
        raise EoError(f"--{name} prices the points of --pareto; give --pareto with it", USAGE)
    low, high = PER_KWH_BOUNDS[name]
    if not low <= value <= high:
        raise EoError(f"--{name} {value:g} is outside {low:g}..{high:g}; choose a number in between", USAGE)
    return value


def _drawn(setup: Setup) -> dict[str, int]:
    """What was refused, clipped or raised among the requests drawn from a curve, over all seeds."""
    from models.bench.compare import Comparison

    if setup.curve is None or setup.curve.lengths.all_served:
        return {}
    compare, total = Comparison(setup), Counter[str]()
    for seed in range(setup.seeds):
        total.update(compare.case(setup.kappas[0], seed).stream.notes)
        compare.forget_streams()
    return dict(total)


def _days(text: str) -> float | None:
    if text == "all":
        return None
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0.0 < days <= 366.0:
        raise EoError(f"--days {text} is neither all nor a number above 0 up to 366; choose --days 2", USAGE)
    if days < LEAST_DAYS:
        raise EoError(
            f"--days {text} is below one minute ({LEAST_DAYS:.1g} days); choose --days 0.04 for an hour", USAGE
        )
    return days


def _baselines(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ("b0", "b1")]
    if unknown or not names:
        raise EoError(
            f"--baseline {text!r} names no baseline; b0 is always on, b1 scales replicas: --baseline b0,b1", USAGE
        )
    return names
