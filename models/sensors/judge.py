"""A sensor's recording beside a meter: what the naive integral and ours make of its energy, and both errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.sensors import energy
from models.sensors.boxcar import Reference
from models.sensors.learn import learn
from models.sensors.types import Floats, SensorModel

WINDOW_S = 1.0  # what a feature, a bill per request and the control loop are made of
LEARN_SHARE = 0.3  # of a run, where there is no other to learn the calibration from
SWING_RATIO = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Energies over one span; errors are shares of the meter's energy, signed for the span, absolute by the second."""

    start_s: float
    end_s: float
    meter_j: float
    naive_j: float
    estimate_j: float
    uncertainty_j: float
    naive_by_second_ratio: float | None
    estimate_by_second_ratio: float | None
    pulsed: bool

    @property
    def naive_ratio(self) -> float:
        return self.naive_j / self.meter_j - 1.0

    @property
    def estimate_ratio(self) -> float:
        return self.estimate_j / self.meter_j - 1.0


def overlap(time_s: Floats, meter: Reference) -> tuple[float, float]:
    """The span that both cover; empty (start >= end) when there is none."""
    return max(float(time_s[0]), float(meter.time_s[0])), min(float(time_s[-1]), float(meter.time_s[-1]))


def judge(
    time_s: Floats,
    power_w: Floats,
    busy_ratio: Floats | None,
    meter: Reference,
    model: SensorModel,
    *,
    span: tuple[float, float] | None = None,
) -> Judged:
    """Both energies over a span and over each whole second of it. The model must not come from that span."""
    start_s, end_s = overlap(time_s, meter) if span is None else span
    found = energy.estimate(time_s, power_w, busy_ratio, model, start_s=start_s, end_s=end_s)
    seconds = np.arange(start_s, end_s - WINDOW_S + 1e-9, WINDOW_S)
    ours, naives = list[float](), list[float]()
    when, watts = energy.rectified(time_s, power_w, busy_ratio, model)
    for at in seconds.tolist():
        true_j = meter.energy_j(at, at + WINDOW_S)
        ours.append(abs(energy.naive(when, watts, start_s=at, end_s=at + WINDOW_S) / true_j - 1.0))
        naives.append(abs(energy.naive(time_s, power_w, start_s=at, end_s=at + WINDOW_S) / true_j - 1.0))
    return Judged(
        start_s=start_s,
        end_s=end_s,
        meter_j=meter.energy_j(start_s, end_s),
        naive_j=energy.naive(time_s, power_w, start_s=start_s, end_s=end_s),
        estimate_j=found.energy_j,
        uncertainty_j=found.uncertainty_j,
        naive_by_second_ratio=float(np.mean(naives)) if naives else None,
        estimate_by_second_ratio=float(np.mean(ours)) if ours else None,
        pulsed=is_pulsed(meter, model.period_s or 0.1, start_s=start_s, end_s=end_s),
    )


def is_pulsed(meter: Reference, period_s: float, *, start_s: float, end_s: float) -> bool:
    """Whether the load swings inside a sensor's period for a tenth of the span: then readings alias."""
    edges = np.arange(start_s, end_s - period_s, period_s)
    if len(edges) == 0:
        return False
    spread, mean = meter.spread_w(edges, edges + period_s), meter.mean_w(edges, edges + period_s)
    return bool(np.mean(spread > SWING_RATIO * mean) > 0.1)


def with_calibration_of(own: SensorModel, other: SensorModel) -> SensorModel:
    """What a run tells of itself, with window, lag and calibration from another run of the same board."""
    why = {**own.why, "window": other.why.get("window", "another run")}
    return replace(own, window_s=other.window_s, lag_s=other.lag_s, calibration=other.calibration, why=why)


def learned_ahead(
    time_s: Floats, power_w: Floats, busy_ratio: Floats | None, meter: Reference, *, share: float = LEARN_SHARE
) -> tuple[SensorModel, tuple[float, float]]:
    """A model from the first part of a run, and the span that is left to judge it on."""
    start_s, end_s = overlap(time_s, meter)
    border_s = start_s + share * (end_s - start_s)
    early, known = time_s <= border_s, meter.time_s <= border_s
    before = Reference(meter.time_s[known], meter.power_w[known])
    busy = None if busy_ratio is None else busy_ratio[early]
    model = learn(time_s[early], power_w[early], busy_ratio=busy, meter=before, origin=f"the run's first {share:.0%}")
    return model, (border_s, end_s)
