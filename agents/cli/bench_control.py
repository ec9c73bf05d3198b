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


def run(args: argparse.Namespace) -> int:
    from agents.cli.bench import put

    result = measure(args)
    text = json.dumps(result, indent=1, allow_nan=False)
    if isinstance(args.json, str):
        put(Path(args.json), text + "\n")
    print(text if args.json is True else table(result))
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
    from agents.cli.bench_inputs import workload
    from models.bench.compare import Setup, report, truth_of
    from models.bench.compiled import BenchUnavailable

    load = workload(args, kv_limit=truth_of("mid").kv_limit_tokens)
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
    found["baselines"] = {name: found["baselines"][name] for name in wanted}
    if args.pareto:
        from models.policy.pareto import front

        found["pareto"] = front(found)
    return found


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
        raise EoError(f"--days {text} is neither all nor a number above 0; choose --days 2", USAGE)
    return days


def _baselines(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ("b0", "b1")]
    if unknown or not names:
        raise EoError(
            f"--baseline {text!r} names no baseline; b0 is always on, b1 scales replicas: --baseline b0,b1", USAGE
        )
    return names


def table(found: dict[str, Any]) -> str:
    """The figures for a reader."""
    fleet = found["fleet"]
    lines = [
        f"{found['workload']}: {fleet['replicas']} replicas ({fleet['gpus']} GPUs), scale {fleet['scale']:g}, "
        f"{found['seeds']} seed(s), kappa {found['kappa']}. SIMULATED.",
        "",
        "| policy | GPU below b0 | wall below b0 | GPU below b1 | p99 first / between / end-to-end vs b0 "
        "| worst hour first, between (ms) | hours outside | missed | J/request |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {**{n: found["baselines"][n] for n in found["baselines"]}, **found["results"]}
    rows |= {rival["name"]: rival for rival in found["rivals"]}
    lines += [_line(name, row) for name, row in rows.items()]
    for name, row in found["results"].items():
        share = row["reference_share"]
        if share["gpu"] is not None:
            lines.append(
                f"{name}: {share['gpu']:.0%} (GPU) and {share['wall']:.0%} (wall) of the perfect-load reference."
            )
    lines += [f"note: {count} x {name.replace('_', ' ')}" for name, count in found["notes"].items()]
    return "\n".join([*lines, f"CPU seconds: {found['seconds']:.0f}"])


def _line(name: str, row: dict[str, Any]) -> str:
    change, worst = row["p99_change_ratio"], row["worst_hour"]
    changes = " / ".join(_percent(change[m], "+.1%") for m in ("ttft", "tbt", "e2e"))
    return (
        f"| {name} | {_percent(row['gpu_saving_ratio']['b0'])} | {_percent(row['wall_saving_ratio']['b0'])} "
        f"| {_percent(row['gpu_saving_ratio']['b1'])} | {changes} | {_number(worst['p99_ttft_ms'])}, "
        f"{_number(worst['p99_tbt_ms'])} | {row['hours_outside_slo']} of {row['hours']} "
        f"| {_percent(row['missed_ratio'], '.3%')} | {_number(row['joules_per_request'])} |"
    )


def _percent(value: float | None, form: str = ".1%") -> str:
    return "unknown" if value is None else format(value, form)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"
