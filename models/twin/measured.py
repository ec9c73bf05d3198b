"""The measurements that the twin is fitted to and judged on, as values, and the fit of everything to them.

Whoever has the files reads them and hands in columns; this module knows which file is which and what a device's highest
clock and limit were, nothing of paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.twin import fit_heat, fit_sensor
from models.twin.calibrated import FOLDS, Calibration
from models.twin.fit_jobs import GENERIC_LAW, ONE_PHASE, WIDE, DeviceFit, Sweep, every, learn
from models.twin.fit_stack import Batches, learn_stacks
from models.twin.recordings import BATCH, CLOCK, Columns, Recorded, as_sweep, from_columns

Array = NDArray[np.float64]

LIMIT_FILES: Final = ("zeus_power_limit_sweep.parquet", "perseus_power_limit_sweep.parquet")
CLOCK_FILES: Final = ("perseus_clock_sweep.parquet",)
BATCH_FILES: Final = ("mlenergy_v2_llm.csv",)
OTHER_BATCH_FILES: Final = ("mlenergy_v2_diffusion.csv",)
SENSOR_RUNS: Final = ("a100_transient", "a100_5050")
LEAST_POINTS: Final = 5  # of a batch curve: three to fit, two to judge
# Highest SM clock and the limit in force during recorded clock sweeps, where they are known.
KNOWN_CLOCKS: Final[dict[str, tuple[float, float | None]]] = {"a100_sxm": (1410.0, None), "a40": (1740.0, 300.0)}
SOURCES: Final = {
    "zeus_power_limit_sweep.parquet": "ml-energy/zeus @ 75a8b93, zeus_nsdi23 trace (You et al., NSDI 2023), Apache-2.0",
    "perseus_power_limit_sweep.parquet": "ml-energy/zeus @ 1b1c4a9, sosp24_data (Chung et al., SOSP 2024), Apache-2.0",
    "perseus_clock_sweep.parquet": "ml-energy/zeus @ 1b1c4a9, emulation (Chung et al., SOSP 2024), Apache-2.0",
    "mlenergy_v2_llm.csv": "ml-energy/leaderboard-v2 @ c3af7f3 (Chung et al., NeurIPS D&B 2025), Apache-2.0",
}


@dataclass(frozen=True, slots=True)
class SensorRun:
    """An external meter beside the board's own sensor, on one clock from 0."""

    name: str
    meter_end_s: Array
    meter_w: Array
    time_s: Array
    reading_w: Array
    temp_c: Array


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that ships: sweeps by file, and the sensor runs."""

    sweeps: Mapping[str, Sequence[Recorded]]
    runs: Sequence[SensorRun]


def gather(tables: Mapping[str, Columns]) -> Measured:
    """From the columns of each shipped file, by file name."""
    names = (*LIMIT_FILES, *CLOCK_FILES, *BATCH_FILES, *OTHER_BATCH_FILES)
    sweeps = {name: from_columns(tables[name]).sweeps for name in names}
    return Measured(sweeps, [_sensor_run(name, tables) for name in SENSOR_RUNS])


def device_sweeps(recorded: Sequence[Recorded]) -> dict[str, list[Sweep]]:
    """Limit and clock sweeps by "<device>/<knob>", in the order of their names."""
    groups: dict[str, list[Sweep]] = {}
    for one in sorted(recorded, key=lambda one: one.name):
        if one.knob == BATCH:
            continue
        fmax, limit = KNOWN_CLOCKS.get(one.device, (None, None))
        groups.setdefault(f"{one.device}/{one.knob}", []).append(as_sweep(one, fmax_mhz=fmax, limit_w=limit))
    return groups


def stacks(recorded: Sequence[Recorded]) -> list[Batches]:
    """Batch curves that are long enough, in the order of their names."""
    return [
        Batches(
            one.name,
            one.device,
            one.name.split()[1] if len(one.name.split()) > 1 else one.name,
            one.running if one.running is not None else one.setting,
            one.time_s,
            one.gpu_w,
        )
        for one in sorted(recorded, key=lambda one: one.name)
        if one.knob == BATCH and one.watts is not None and len(one.setting) >= LEAST_POINTS
    ]


def fold(items: Sequence[Any], which: str) -> list[Any]:
    """Every other item, the rest, or all."""
    return list(items) if which == "all" else list(items[0 if which == "even" else 1 :: 2])


def refit(measured: Measured, *, date: str, trials: int = 80, rounds: int = 3) -> tuple[Calibration, dict[str, str]]:
    """Fits everything anew, and names each device's source. Minutes of one core with the default trials."""
    devices: dict[str, dict[str, DeviceFit]] = {}
    sources: dict[str, str] = {}
    for name in (*LIMIT_FILES, *CLOCK_FILES):
        for key, sweeps in device_sweeps(measured.sweeps[name]).items():
            prior = ONE_PHASE if key.endswith(CLOCK) else WIDE
            devices[key] = {
                which: learn(
                    fold(sweeps, which) or sweeps, every, start=GENERIC_LAW, prior=prior, trials=trials, rounds=rounds
                )
                for which in FOLDS
            }
            sources[key] = f"{SOURCES[name]}; {len(sweeps)} sweeps"
    curves = stacks(measured.sweeps[BATCH_FILES[0]])
    spread = {which: learn_stacks(fold(curves, which)) for which in FOLDS}
    sources["stacks"] = f"{SOURCES[BATCH_FILES[0]]}; {len(curves)} batch curves"
    constants = {"sensor_a100": _sensor(measured.runs), "heat_a100": _heat(measured.runs)}
    return Calibration(date, devices, spread, constants), sources


def heat_records(runs: Sequence[SensorRun]) -> list[fit_heat.HeatRecord]:
    """Watts every 20 ms and the temperatures beside them."""
    records = []
    for one in runs:
        beside = (one.time_s > 0.0) & (one.time_s < one.meter_end_s[-1])
        watts = fit_heat.regular(one.meter_end_s, one.meter_w)
        records.append(fit_heat.HeatRecord(watts, one.time_s[beside], one.temp_c[beside]))
    return records


def _sensor(runs: Sequence[SensorRun]) -> dict[str, Any]:
    fits = {
        one.name: fit_sensor.fit(one.time_s, one.reading_w, fit_sensor.meter(one.meter_end_s, one.meter_w))
        for one in runs
    }
    windows = sorted(round(one.window_s, 4) for one in fits.values())
    best = fits["a100_5050"]  # a pulsed load tells the window; after a single step any short one fits
    return {
        "source": "JimZeyuYang/GPU_Power_Benchmark @ 4b5c944 (Yang et al., arXiv 2312.02741), MIT: A100 beside a meter",
        "window_s": round(best.window_s, 4),
        "window_interval_s": [windows[0], windows[-1]],
        "lag_s": round(best.lag_s, 4),
        "period_s": round(best.period_s, 4),
        "gain": round(best.gain, 4),
        "runs": {
            name: {key: value if isinstance(value, str) else round(value, 5) for key, value in asdict(one).items()}
            for name, one in fits.items()
        },
    }


def _heat(runs: Sequence[SensorRun]) -> dict[str, Any]:
    records = heat_records(runs)
    found = fit_heat.fit(records)
    alone = [asdict(fit_heat.fit([one])) for one in records] + [asdict(found)]
    idle = [min(one.meter_w[:100].mean(), one.meter_w[-100:].mean()) for one in runs]
    slopes = [fit_heat.leak_w_per_k(one, idle_below_w=1.5 * low) for one, low in zip(records, idle, strict=True)]
    known = [slope for slope in slopes if slope is not None]
    return {
        "source": "the same recordings: die temperature in whole degrees beside the meter's watts, runs of 10 and 14 s",
        **{key: round(value, 5) for key, value in asdict(found).items()},
        "interval": {  # what each recording alone and both together give
            key: [round(min(one[key] for one in alone), 5), round(max(one[key] for one in alone), 5)]
            for key in ("die_k_per_w", "die_tau_s", "sink_k_per_w", "sink_tau_s")
        },
        "leak_w_per_k": round(float(np.mean(known)), 3) if known else None,
        "idle_w": [round(float(low), 1) for low in idle],
    }


def _sensor_run(name: str, tables: Mapping[str, Columns]) -> SensorRun:
    beside, own = tables[f"{name}_meter.parquet"], tables[f"{name}_nvidia_smi.parquet"]

    def column(table: Columns, key: str) -> Array:
        return np.asarray(table[key], dtype=np.float64)

    return SensorRun(
        name,
        column(beside, "end_s"),
        column(beside, "mean_W"),
        column(own, "time_s"),
        column(own, "power_draw_W"),
        column(own, "temp_C"),
    )
