"""`eo bench twin`: the twin against measurements it has not seen, row by row, and the fit of its parameters."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.base import DONE, FAILED, EoError

if TYPE_CHECKING:
    from models.twin.calibrated import Calibration
    from models.twin.gates import Row
    from models.twin.measured import Measured
    from models.twin.recordings import Found
    from models.twin.weeks import Week
    from models.twin.workload import Workload

KEPT_WEEKS: Final = "docs/benchmarks/control"


def run(args: argparse.Namespace) -> int:
    """Prints and writes the table; exit code 1 when a gate is missed."""
    from agents.cli.bench import deliver, put
    from models.twin.gates import report

    own = [Path(one) for one in args.sweep or () if one != "all"]
    rows = judge(refitted=args.refit, files=own, weeks=args.weeks)
    result = report(rows)
    text = page(rows)
    if args.write is not None:
        put(args.write, text)
    deliver(args, result, text)
    return DONE if all(one["passed"] for one in result["gates"]) else FAILED


def judge(*, refitted: bool = False, files: Sequence[Path] = (), weeks: Path | None = None) -> list[Row]:
    """Every row: shipped measurements, the user's own sweeps, and the gates that run the engine."""
    from agents.cli import sweep_files
    from models.twin import gates, gates_batch, gates_engine
    from models.twin.calibrated import published, shipped
    from models.twin.measured import BATCH_FILES, CLOCK_FILES, device_sweeps, stacks

    simulated = week_results(weeks)
    own = [(path, sweep_files.recorded(path)) for path in files]  # a wrong path is said before minutes of work
    measured = sweep_files.measured()
    calibration = refit(measured) if refitted else shipped()
    points, curves = published(), stacks(measured.sweeps[BATCH_FILES[0]])
    rows = gates.shipped_sweeps(calibration, measured)
    rows += [*gates_batch.published_stack(points), *gates_batch.batch_curves(calibration, curves)]
    rows += [*gates.clock_curves(points), *gates.sensor(measured.runs)]
    rows.append(gates_engine.vendor_profile(conversation, points["vendor_profile"]))
    clocks = device_sweeps([one for name in CLOCK_FILES for one in measured.sweeps[name]])
    rows += gates_engine.prefill_lane(points["prefill_lane"], calibration, clocks)
    rows.append(gates_engine.headroom(conversation, points["inference_headroom"]))
    rows += gates_engine.weeks(points, simulated)
    rows += [*gates_batch.across_models(curves), gates.heat(measured.runs), *gates.walls(points)]
    return rows + own_rows(calibration, own)


def week_results(where: Path | None) -> dict[str, Week]:
    """Results of the control bench: of a file or a folder, else those that a checkout keeps beside its page."""
    import json

    import models
    from models.twin.weeks import NoResult, collected

    kept = Path(models.__file__).parent.parent / KEPT_WEEKS
    if where is not None and not where.exists():
        raise EoError(f"{where} does not exist; give the --json of `eo bench control`, or a folder of them")
    folder = where or kept
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.json"))
    if where is not None and not paths:
        raise EoError(f"{where} holds no .json file; write some with `eo bench control --json {where}/conv.json`")
    try:
        parsed = {path.name: json.loads(path.read_text()) for path in paths}
        if where is None:  # beside the page lie other parts of the protocol too, in forms of their own
            parsed = {name: value for name, value in parsed.items() if isinstance(value, dict)}
        return collected(parsed)
    except (NoResult, ValueError, OSError) as error:
        raise EoError(f"{folder}: {error}; leave it out, or write it anew with `eo bench control --json`") from error


def own_rows(calibration: Calibration, own: Sequence[tuple[Path, Found]]) -> list[Row]:
    """Sweeps of the user's: held-out errors as for the shipped ones, and what could not be used."""
    from models.twin import gates, gates_batch

    rows: list[Row] = []
    for path, found in own:
        rows += gates.other_sweeps(calibration, found.sweeps, label=path.name)
        rows += gates_batch.other_stacks(calibration, found.sweeps, label=path.name)
        rows += [_unused(path, reason, count) for reason, count in found.skipped.items()]
    return rows


def refit(measured: Measured) -> Calibration:
    """Fits everything anew and keeps it in the package's data file."""
    from importlib.resources import as_file, files

    from models.twin.calibrated import dump, parse
    from models.twin.measured import refit as fit_all

    calibration, sources = fit_all(measured, date=datetime.datetime.now(datetime.UTC).date().isoformat())
    text = dump(calibration, sources)
    with as_file(files("models.twin").joinpath("data/calibration.json")) as path:
        try:
            path.write_text(text)
        except OSError as error:
            raise EoError(
                f"{path} could not be written ({error.strerror}); run --refit in a checkout that is yours"
            ) from error
    return parse(text)


def conversation(replicas: int, thin: float) -> Workload:
    """The recorded conversation trace that the fleet replays."""
    from agents.fleet.trace import recorded_workload

    return recorded_workload(replicas=replicas, seed=1, thin=thin)


def page(rows: Sequence[Row]) -> str:
    """The table as a Markdown page."""
    gates, beside = [row for row in rows if row.bound is not None], [row for row in rows if row.bound is None]
    missed = [row.name for row in gates if not row.passed]
    lines = [
        "# The twin against measurements it has not seen",
        "",
        "Written by `eo bench twin`. Every row is fitted and judged on separate points: what is judged was not fitted.",
        "Errors are means of absolute relative errors (energy: shares of the energy at the highest setting), p90 their",
        "90th percentile. What the engine does is simulated, and its published figure is what it is held to.",
        "",
        f"{len(gates) - len(missed)} of {len(gates)} gates passed."
        + (f" Missed: {', '.join(missed)}." if missed else ""),
        "",
        "| gate | n | error | bound | passed | p90 | fitted on | judged on | note |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row, gate=True) for row in gates),
        "",
        "Reported only, no bound:",
        "",
        "| what | n | error | p90 | fitted on | judged on | note |",
        "|---|---|---|---|---|---|---|",
        *(_line(row, gate=False) for row in beside),
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, *, gate: bool) -> str:
    kelvin = "kelvin" in row.name
    error = "not run" if row.error is None else f"{row.error:.2f} K" if kelvin else _share(row.error)
    p90 = "" if row.p90 is None else f"{row.p90:.1%}"
    if gate:
        verdict = "yes" if row.passed else "**no**"
        cells: list[Any] = [
            row.name,
            row.n,
            error,
            f"{row.bound:.0%}",
            verdict,
            p90,
            row.fitted_on,
            row.judged_on,
            row.note,
        ]
    else:
        cells = [row.name, row.n, error, p90, row.fitted_on, row.judged_on, row.note]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _share(error: float) -> str:
    """An error that is there is never printed as 0."""
    return f"{error:.2%}" if 0.0 < abs(error) < 5e-4 else f"{error:.1%}"


def _unused(path: Path, reason: str, count: int) -> Row:
    from models.twin.gates import Row

    return Row(
        name=f"{path.name}: not used", n=count, error=None, bound=None, fitted_on="-", judged_on="-", note=reason
    )
