"""`eo forecast`: a metric's next hours from the archive, as `POST /forecast` says them. It reads nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agents.cli.base import DONE, FAILED, USAGE, EoError, emit, table
from agents.cli.parser import number

ROWS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo forecast --hours 24\n  eo forecast --metric tokens_per_s --hours 1 --json\n"
        "  eo sample-archive /tmp/sample && eo forecast --archive /tmp/sample --hours 24"
    )
    parser.add_argument(
        "--metric", default="power_w", help="power_w (default), tokens_per_s, requests_per_s or util_ratio"
    )
    parser.add_argument("--hours", type=number(0, 168, above=True), default=24.0, help="how far ahead (default 24)")
    parser.add_argument("--archive", type=Path, help="an archive's folder (default: the data folder's)")


def run(args: argparse.Namespace) -> int:
    from agents.gateway.history import METRICS
    from models.forecast.base import TooShort
    from streams.contract.layout import Layout

    if args.metric not in METRICS:
        raise EoError(f"there is no metric {args.metric!r}; there are: {', '.join(METRICS)}.", USAGE)
    archive = args.archive or Layout.from_env().archive
    if not archive.is_dir():
        raise EoError(f"{archive} is no folder; `eo worker archive` fills one, `eo sample-archive DIR` makes one up.")
    try:
        told = ahead(archive, args.metric, args.hours)
    except TooShort as error:
        raise EoError(
            f"{error}; let the archive grow, ask for fewer --hours, or try `eo sample-archive DIR`.", FAILED
        ) from error
    emit(args, told, lambda: text(told))
    return DONE


def ahead(archive: Path, metric: str, hours: float) -> dict[str, Any]:
    """The forecast as the API tells it; raises models.forecast.base.TooShort."""
    import asyncio

    from agents.gateway.archive import ArchiveDoor
    from agents.gateway.history import METRICS, horizon_of, read_history
    from agents.gateway.problems import Problem
    from agents.gateway.routes.forecast import told
    from models.forecast.select import forecast

    door, plan = ArchiveDoor(archive, timeout_s=60.0), horizon_of(hours)
    try:
        history = asyncio.run(read_history(door, metric, plan, None))
    except Problem as problem:
        raise EoError(f"{problem.detail.rstrip('.')}; {problem.fix}.") from problem
    finally:
        door.close()
    found = forecast(history.series(plan), plan.steps, minimum=METRICS[metric].minimum)
    return {"archive": str(archive), **told(metric, history, found)}


def text(told: dict[str, Any]) -> str:
    """A table of at most a dozen steps, the model and its backtest; simulated is said first."""
    import time

    points = told["points"]
    shown = points[:: max(1, len(points) // ROWS)]
    rows = [
        (
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(point["ts_ns"] // 10**9)),
            point["mean"],
            *(point["quantiles"][q] for q in ("0.1", "0.5", "0.9")),
        )
        for point in shown
    ]
    kind = told["made_from"]["quality"]
    label = {"simulated": "SIMULATED history: ", "mixed": "PARTLY SIMULATED history: "}.get(str(kind), "")
    best = next(one for one in told["backtest"] if one["model"] == told["model"])
    error = ", ".join(f"{name} {best[name]:.3g}" for name in ("mae", "mase", "coverage") if best[name] is not None)
    return "\n".join(
        [
            f"{label}{told['metric']} in {told['unit']}, {told['history_hours']:g} h of history, steps of "
            f"{told['step_s']:g} s",
            table(rows, ("from (UTC)", "mean", "10 %", "50 %", "90 %")),
            f"model {told['model']}, backtest over {best['windows']} windows: {error}",
        ]
    )
