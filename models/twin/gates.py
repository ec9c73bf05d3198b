"""The twin against measurements it has not seen: one row per claim, fitted and judged on separate points.

Pure: sweeps and runs come in, rows go out. A row that is only reported has no bound and cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.sensors.boxcar import Reference
from models.twin import fit_curve, fit_heat, fit_sensor
from models.twin.calibrated import Calibration
from models.twin.fit_jobs import Chosen, DeviceFit, Sweep, every_nth, fit, learn, predict, three
from models.twin.measured import Measured, SensorRun, device_sweeps, heat_records
from models.twin.node import ACME_A100, HIGH, LOW, MID, node_power
from models.twin.recordings import CLOCK, LIMIT, Recorded

Array = NDArray[np.float64]

THREE: Final = (
    "lowest, middle and highest setting of each workload; device law and spread: the other half of the workloads"
)
QUARTER: Final = "every fourth clock of each stage; device law and spread: the other half of the stages"
# Time, power and energy: mean error; energy in shares of the energy at the highest setting.
BOUNDS: Final[dict[str, tuple[float, float, float]]] = {
    f"v100/{LIMIT}": (0.02, 0.03, 0.03),
    f"a40/{LIMIT}": (0.04, 0.05, 0.05),
    f"a100_sxm/{CLOCK}": (0.02, 0.04, 0.04),
    f"a40/{CLOCK}": (0.02, 0.04, 0.04),
}
QUANTITIES: Final = ("time", "power", "energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table; `bound` None = reported only. Errors and bounds are ratios."""

    name: str
    n: int
    error: float | None
    bound: float | None
    fitted_on: str
    judged_on: str
    p90: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """None where there is no bound."""
        if self.bound is None:
            return None
        return self.error is not None and bool(np.isfinite(self.error)) and self.error <= self.bound

    def plain(self) -> dict[str, Any]:
        """As JSON, which knows no NaN: an error that is no number is unknown."""
        names = ("name", "n", "error", "bound", "passed", "p90", "fitted_on", "judged_on", "note")
        values = {name: getattr(self, name) for name in names}
        return {name: None if isinstance(one, float) and not isfinite(one) else one for name, one in values.items()}


def report(rows: Iterable[Row]) -> dict[str, list[dict[str, Any]]]:
    """Gates and reported rows apart."""
    rows = list(rows)
    return {
        "gates": [row.plain() for row in rows if row.bound is not None],
        "reported": [row.plain() for row in rows if row.bound is None],
    }


def judged_row(name: str, values: Array, bound: float | None, *, fitted_on: str, judged_on: str, note: str = "") -> Row:
    """Mean of absolute errors, and their 90th percentile beside it."""
    if len(values) == 0:
        return Row(name=name, n=0, error=None, bound=bound, fitted_on=fitted_on, judged_on=judged_on, note=note)
    size = np.abs(values)
    return Row(
        name=name,
        n=len(values),
        error=round(float(size.mean()), 5),
        bound=bound,
        p90=round(float(np.percentile(size, 90)), 5),
        fitted_on=fitted_on,
        judged_on=judged_on,
        note=note,
    )


# --- limits and clocks ---


def held_out(device: DeviceFit, sweeps: Sequence[Sweep], chosen: Chosen) -> tuple[Array, Array, Array]:
    """Errors in time, power and energy at the settings that were not fitted."""
    parts: tuple[list[Array], list[Array], list[Array]] = ([], [], [])
    for one, (time_s, watts) in zip(sweeps, predict(device, fit(device, sweeps, chosen), sweeps), strict=True):
        rest = ~chosen(one)
        full = one.energy[-1]
        parts[0].append((time_s / one.time_s - 1.0)[rest])
        parts[1].append((watts / one.watts - 1.0)[rest])
        parts[2].append(((time_s * watts - one.energy) / full)[rest])
    return np.concatenate(parts[0]), np.concatenate(parts[1]), np.concatenate(parts[2])


def shipped_sweeps(calibration: Calibration, measured: Measured) -> list[Row]:
    """Every shipped limit and clock sweep, each half of the workloads judged with what the other half taught."""
    rows = []
    for recorded in measured.sweeps.values():
        for key, sweeps in device_sweeps(recorded).items():
            chosen, fitted_on = _protocol(key)
            halves = [(calibration.devices[key][fold], sweeps[1 - at :: 2]) for at, fold in enumerate(("even", "odd"))]
            found = [held_out(device, half, chosen) for device, half in halves if half]
            rows += _three_rows(key, found, BOUNDS.get(key), fitted_on=fitted_on)
    return rows


def other_sweeps(calibration: Calibration, recorded: Sequence[Recorded], *, label: str, trials: int = 40) -> list[Row]:
    """Sweeps that the package has never seen: a known device with its shipped law, any other with a law from three."""
    rows = []
    for key, sweeps in device_sweeps(recorded).items():
        chosen, _ = _protocol(key)
        usable = [one for one in sweeps if len(one.setting) > int(chosen(one).sum()) > 1]
        if len(usable) < len(sweeps):
            rows.append(_too_short(f"{label}: {key}", len(sweeps) - len(usable)))
        if not usable:
            continue
        device, _, knob = key.rpartition("/")
        known = calibration.device(device, knob)
        if known is None:
            known, where = learned_from_three(calibration, usable, chosen, knob, trials=trials), "the same settings"
        else:
            where = f"the shipped law of {device}"
        fitted_on = f"{'three settings' if knob == LIMIT else 'every fourth clock'} of each workload; device: {where}"
        rows += _three_rows(f"{label}: {key}", [held_out(known, usable, chosen)], BOUNDS.get(key), fitted_on=fitted_on)
    return rows


def _too_short(name: str, count: int) -> Row:
    note = "no setting is left to judge: a limit sweep needs four, a clock sweep six"
    return Row(name=f"{name}: not judged", n=count, error=None, bound=None, fitted_on="-", judged_on="-", note=note)


def learned_from_three(
    calibration: Calibration, sweeps: Sequence[Sweep], chosen: Chosen, knob: str, *, trials: int
) -> DeviceFit:
    """The law of an unknown device from the fitted settings alone, with the spread of known devices as prior."""
    typical = calibration.typical(knob)
    law = learn(sweeps, chosen, start=typical.law, prior=typical.prior, trials=trials, rounds=1).law
    return DeviceFit(law, typical.prior)


def _protocol(key: str) -> tuple[Chosen, str]:
    return (every_nth(4), QUARTER) if key.endswith(CLOCK) else (three, THREE)


def _three_rows(
    key: str,
    found: Sequence[tuple[Array, Array, Array]],
    bounds: tuple[float, float, float] | None,
    *,
    fitted_on: str,
) -> list[Row]:
    knob = "clock" if key.endswith(CLOCK) else "limit"
    title = key.rpartition("/")[0]
    return [
        judged_row(
            f"{title}: {knob} -> {quantity}",
            np.concatenate([one[at] for one in found]),
            None if bounds is None else bounds[at],
            fitted_on=fitted_on,
            judged_on="all other settings of the same workloads",
        )
        for at, quantity in enumerate(QUANTITIES)
    ]


# --- published clock curves ---


def clock_curves(published: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """The RTX PRO 6000 under caps and under locks, each inner point predicted from the others."""
    caps, locks = _curve(published["rtx_pro_6000_caps"], "cap_w"), _curve(published["rtx_pro_6000_locks"], "gpu_w")
    cap_speed, cap_power = fit_curve.inner_errors(caps)
    lock_speed, lock_power = fit_curve.inner_errors(locks)
    where = {"fitted_on": "all other points of the curve", "judged_on": "each inner point in turn"}
    speed = np.concatenate([cap_speed, lock_speed])
    return [
        judged_row("clock -> LLM throughput (RTX PRO 6000)", speed, 0.02, **where),
        judged_row("clock -> power under caps (RTX PRO 6000)", cap_power, 0.04, **where),
        judged_row("clock -> power under locks (RTX PRO 6000)", lock_power, 0.10, **where),
    ]


def _curve(raw: Mapping[str, Any], watts: str) -> fit_curve.CurvePoints:
    clock = np.array(raw["clock_mhz"], dtype=np.float64)
    order = np.argsort(clock)
    power = np.array([np.nan if value is None else value for value in raw[watts]], dtype=np.float64)
    speed = np.array(raw["tokens_per_s"], dtype=np.float64)
    return fit_curve.CurvePoints(clock[order] / raw["fmax_mhz"], speed[order], power[order])


# --- sensor and heat ---

RECOVERED: Final = ((0.025, 0.1, 0.0), (0.05, 0.1, 0.02), (0.1, 0.1, 0.01), (0.01, 0.02, 0.0), (1.0, 0.1, 0.04))
Estimate = Callable[[Array, Array, Reference], float]  # times, readings, meter -> window in seconds


def sensor(runs: Sequence[SensorRun], *, estimate: Estimate = fit_sensor.window) -> list[Row]:
    """Known windows found again on real power signals, and the real sensor explained by the meter."""
    off = []
    for run in runs:
        meter = fit_sensor.meter(run.meter_end_s, run.meter_w)
        for window, period, lag in RECOVERED:
            asked, seen = fit_sensor.readings(meter, window_s=window, period_s=period, lag_s=lag, ask_s=0.13 * period)
            off.append(estimate(asked, seen, meter) / window - 1.0)
    windows = ", ".join(f"{window * 1e3:g}" for window, _, _ in RECOVERED)
    worst = float(np.max(np.abs(off)))  # NaN, where a window was not found, does not pass
    recovered = Row(
        name="sensor: boxcar window recovered",
        n=len(off),
        error=round(worst, 5) if np.isfinite(worst) else None,
        bound=0.10,
        fitted_on=f"readings simulated on two metered power signals with windows of {windows} ms",
        judged_on="the window put in (worst of all)",
    )
    return [recovered, *(_meter_row(run) for run in runs)]


def _meter_row(run: SensorRun) -> Row:
    found = fit_sensor.fit(run.time_s, run.reading_w, fit_sensor.meter(run.meter_end_s, run.meter_w))
    return Row(
        name=f"sensor: fit to the meter ({run.name})",
        n=found.judged,
        error=round(found.judged_rmse_w / found.span_w, 5),
        bound=0.05,
        fitted_on="every other update of the reading",
        judged_on="the updates between: rmse over the span of the meter's window means",
        note=f"{found.shape}, window {found.window_s * 1e3:.0f} of {found.period_s * 1e3:.0f} ms, "
        f"{found.judged_rmse_w:.1f} of {found.span_w:.0f} W",
    )


def walls(published: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Node power against the two figures that are public; host and fans are assumptions, so only reported."""
    peak = published["h100_node_peak"]["wall_w"]
    full = [
        float(node_power(one, gpu_w=np.array([5600.0]), busy_ratio=np.ones(1)).wall_w[0]) for one in (LOW, MID, HIGH)
    ]
    acme = published["acme_servers"]
    busy = np.array([0.66])  # mean of the GPU utilisation counter in that cluster
    mean = node_power(ACME_A100, gpu_w=np.array([acme["gpus_per_server"] * acme["gpu_mean_w"]]), busy_ratio=busy)
    low, mid, high = (f"{one / 1e3:.1f}" for one in full)
    return [
        Row(
            name="node: eight H100 at 700 W, wall",
            n=1,
            error=round(full[1] / peak - 1.0, 4),
            bound=None,
            fitted_on="assumed host, fans and supplies",
            judged_on=f"highest measured {peak / 1e3:g} kW",
            note=f"{mid} kW (low {low}, high {high})",
        ),
        Row(
            name="node: mean of Acme's A100 servers, wall",
            n=1,
            error=round(float(mean.wall_w[0]) / acme["server_mean_w"] - 1.0, 4),
            bound=None,
            fitted_on="assumed host, fans and supplies",
            judged_on=f"mean {acme['server_mean_w']} W at {acme['gpu_mean_w']} W a GPU",
            note=f"{float(mean.wall_w[0]):.0f} W",
        ),
    ]


def heat(runs: Sequence[SensorRun]) -> Row:
    """Die temperature: first part of two recordings fitted, the rest judged. In kelvin, so only reported."""
    found = fit_heat.fit(heat_records(runs))
    return Row(
        name="heat: die temperature of an A100, rmse in kelvin",
        n=found.judged,
        error=round(found.judged_rmse_k, 3),
        bound=None,
        fitted_on="first 60 % of two recordings of 10 and 14 s",
        judged_on="the rest of them",
        note="whole degrees are recorded; the sink's minutes are not in them",
    )
