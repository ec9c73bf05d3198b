"""Sensors against their meter: what is found out about them, whose energy is right. Writes docs/benchmarks/sensors.md.

Run: python -m tests.bench.bench_sensors [--archive DIR] [--write FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from agents.cli.doctor_sensors import judgements
from agents.cli.sensor_archive import Run, load
from models.sensors import energy
from models.sensors.boxcar import Reference, from_edges
from models.sensors.judge import Judged, judge
from models.sensors.learn import learn
from models.sensors.types import SensorModel
from tests.unit.models.sensors.simulated import busy, readings, square

DATA = Path(__file__).resolve().parents[1] / "data" / "gpu_sensor"
LOADS_S = (0.0523, 0.0971, 0.1046, 0.1313, 0.1985)
DUTIES = (0.3, 0.5, 0.7)
EDGE_SENSORS = ((0.1012, 0.025, 0.013), (0.1012, 0.025, 0.03), (0.05, 0.0125, 0.013))  # period, window, asked every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, default=DATA)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    began = time.process_time()
    text = "\n".join([*_head(), *_recorded(load(args.archive)), *_simulated(), *_edges(), ""])
    text += f"\nComputed in {time.process_time() - began:.0f} s of CPU by `python -m tests.bench.bench_sensors`.\n"
    if args.write:
        args.write.write_text(text)
    print(text)


def _head() -> list[str]:
    return [
        "# Power sensors against their meter",
        "",
        "Recorded: an A100 PCIe, nvidia-smi asked every 13 ms beside a power meter of 4,780 samples/s (Yang et al., "
        "MIT, `tests/data/gpu_sensor`). The naive integral is the trapezoid over the readings as asked. How the "
        "estimate is made, and from which data: [sensors.md](../sensors.md). Errors are shares of the meter's energy.",
        "",
    ]


def _recorded(runs: list[Run]) -> list[str]:
    models = {run.name: _model(run) for run in runs}
    lines = [
        "## What is found out",
        "",
        "| run | from | period | shape, window | lag | left |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        lines += [_found(run.name, "meter", models[run.name])]
        if run.edge_s is not None:
            edges = from_edges(run.edge_s, start_s=float(run.time_s[0]), end_s=float(run.time_s[-1]))
            lines.append(_found(run.name, "load edges", learn(run.time_s, run.power_w, edges=edges)))
    gains = [
        f"{run.name}: reads {model.calibration.gain:.4f} x true {model.calibration.offset_w:+.2f} W"
        for run in runs
        if (model := models[run.name]).calibration.known
    ]
    columns = ("run", "load", "calibrated on", "span", "meter", "naive", "estimate", "aim", "naive by the second")
    head = f"| {' | '.join((*columns, 'estimate by the second', 'aim'))} |"
    lines += ["", "; ".join(gains) + ".", "", "## Energy", "", head, "|---" * (len(columns) + 2) + "|"]
    for run in runs:
        if run.meter is not None:
            others = [(other, models[other.name]) for other in runs if other is not run]
            lines += [_row(run.name, model, judged) for model, judged in judgements(run, others)]
    return [
        *lines,
        "",
        "Aims: steady load within 2 %; pulsed load at most half of the naive error, over the span and by the second.",
    ]


def _aim(judged: Judged, ours: float | None, naive: float | None) -> str:
    if ours is None or naive is None:
        return "-"
    return "reached" if abs(ours) <= (0.5 * abs(naive) if judged.pulsed else 0.02) else "missed"


def _model(run: Run) -> SensorModel:
    return learn(run.time_s, run.power_w, busy_ratio=run.busy_ratio, meter=run.meter, origin=run.name)


def _found(name: str, source: str, model: SensorModel) -> str:
    def ms(value: float | None) -> str:
        return "unknown" if value is None else f"{value * 1e3:.1f} ms"

    shape, _, left = model.why["window"].partition(", ")
    cells = (name, source, ms(model.period_s), f"{shape.split()[0]}, {ms(model.window_s)}", ms(model.lag_s), left)
    return f"| {' | '.join(cells)} |"


def _row(name: str, model: SensorModel, judged: Judged) -> str:
    ours, naive = judged.estimate_by_second_ratio, judged.naive_by_second_ratio
    cells = (
        name,
        "pulsed" if judged.pulsed else "steady",
        model.calibration.origin,
        f"{judged.end_s - judged.start_s:.1f} s",
        f"{judged.meter_j:.1f} J",
        f"{judged.naive_ratio:+.2%}",
        f"{judged.estimate_ratio:+.2%}",
        _aim(judged, judged.estimate_ratio, judged.naive_ratio),
        f"{naive or 0:.1%}",
        f"{ours or 0:.1%}",
        _aim(judged, ours, naive),
    )
    return f"| {' | '.join(cells)} |"


def _simulated() -> list[str]:
    """Pulses of 15 kinds on a simulated sensor without gain error: what aliases alone cost."""
    lines = [
        "",
        "## Simulated pulses",
        "",
        "SIMULATED: square loads of 60 to 200 W for 20 s, a boxcar of 25 of 101.2 ms without gain error, asked every "
        "13 ms, busy ratio every 200 ms. Mean over duties of 30, 50 and 70 %.",
        "",
        "| load period | naive by the second | estimate by the second | naive over all | estimate over all |",
        "|---|---|---|---|---|",
    ]
    for load_s in LOADS_S:
        judged = [_pulsed(load_s, duty) for duty in DUTIES]
        cells = [
            np.mean([one.naive_by_second_ratio or 0.0 for one in judged]),
            np.mean([one.estimate_by_second_ratio or 0.0 for one in judged]),
            np.mean([abs(one.naive_ratio) for one in judged]),
            np.mean([abs(one.estimate_ratio) for one in judged]),
        ]
        lines.append(f"| {load_s * 1e3:.1f} ms | " + " | ".join(f"{cell:.1%}" for cell in cells) + " |")
    return lines


def _edges() -> list[str]:
    """A load that begins or ends once, at any moment: what of its energy is wrong because of when it did."""
    lines = [
        "",
        "## Simulated edges",
        "",
        "SIMULATED: one step between 60 and 200 W at 40 moments each, busy ratio every 200 ms in whole per cent. Error "
        "of the energy in J, root of the mean square (mean in brackets), by readings alone and with the busy ratio.",
        "",
        "| sensor | asked every | edge | readings alone | with the busy ratio |",
        "|---|---|---|---|---|",
    ]
    for period_s, window_s, ask_s in EDGE_SENSORS:
        for rises in (True, False):
            errors = np.array([_edge(period_s, window_s, ask_s, rises=rises, seed=n) for n in range(40)])
            plain, ours = np.sqrt(np.mean(errors**2, axis=0))
            told = [f"{rms:.1f} J ({mean:+.1f})" for rms, mean in zip((plain, ours), errors.mean(axis=0), strict=True)]
            sensor = f"{window_s * 1e3:.1f} of {period_s * 1e3:.1f} ms"
            edge = "begin" if rises else "end"
            lines.append(f"| {sensor} | {ask_s * 1e3:.0f} ms | {edge} | {told[0]} | {told[1]} |")
    return lines


def _edge(period_s: float, window_s: float, ask_s: float, *, rises: bool, seed: int) -> tuple[float, float]:
    """(error by readings alone, error with the busy ratio) of one step, joules."""
    at_s = 4.0 + np.random.default_rng(seed).uniform()
    time_s = np.arange(0.0, 10.0, 0.0005)
    meter = Reference(time_s, np.where((time_s >= at_s) == rises, 200.0, 60.0))
    asked, power_w = readings(meter, period_s=period_s, window_s=window_s, ask_s=ask_s, seed=seed)
    model = SensorModel(period_s=period_s, window_s=window_s, lag_s=0.0, util_period_s=0.2)
    ratio, true_j = busy(meter, asked), meter.energy_j(1.0, 9.0)
    plain, ours = (
        energy.estimate(asked, power_w, known, model, start_s=1.0, end_s=9.0).energy_j - true_j
        for known in (None, ratio)
    )
    return plain, ours


def _pulsed(load_s: float, duty: float) -> Judged:
    meter = square(seconds=20, period_s=load_s, duty=duty)
    time_s, power_w = readings(meter, period_s=0.1012, window_s=0.025)
    ratio = busy(meter, time_s)
    return judge(time_s, power_w, ratio, meter, learn(time_s, power_w, busy_ratio=ratio))


if __name__ == "__main__":
    main()
