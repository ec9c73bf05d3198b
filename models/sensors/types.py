"""What is known of a power sensor and what a judged number looks like. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Quality = Literal["measured", "estimated", "simulated"]

TOLERANCE_RATIO = 0.05  # what NVIDIA states for its board sensors; an uncalibrated reading can be this wrong for ever


@dataclass(frozen=True, slots=True)
class Calibration:
    """reading = gain * true + offset_w, against a trusted meter; `residual_w` is the scatter that was left."""

    gain: float = 1.0
    offset_w: float = 0.0
    residual_w: float | None = None  # None = never calibrated
    origin: str = "none: the reading is taken as it is"

    def true_w(self, reading_w: Floats) -> Floats:
        """The meter's watts that belong to a reading."""
        return np.asarray((reading_w - self.offset_w) / self.gain, dtype=np.float64)

    @property
    def known(self) -> bool:
        return self.residual_w is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorModel:
    """How a sensor makes its readings: mean over `window_s`, ended `lag_s` before it is published every `period_s`.

    None = could not be found out from the data at hand; `why` says for each name where a value came from.
    """

    period_s: float | None = None
    window_s: float | None = None
    lag_s: float | None = None
    util_period_s: float | None = None
    calibration: Calibration = field(default_factory=Calibration)
    why: dict[str, str] = field(default_factory=dict)

    @property
    def seen_ratio(self) -> float | None:
        """Share of the time that the sensor looks at all; 0.25 on an A100."""
        if self.period_s is None or self.window_s is None:
            return None
        return min(1.0, self.window_s / self.period_s)

    @property
    def age_s(self) -> float:
        """Mean age of what a reading describes, asked at a random moment: half a period, half a window and the lag."""
        return (self.period_s or 0.0) / 2 + (self.window_s or 0.0) / 2 + (self.lag_s or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules between two instants; `uncertainty_j` is half of the interval in which the truth is expected."""

    energy_j: float
    start_s: float
    end_s: float
    quality: Quality
    uncertainty_j: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """One quantity after all its sensors were heard: the value, who is believed and why, in one sentence."""

    value: float | None
    unit: str
    believed: str | None
    quality: Quality
    disagreement_ratio: float | None
    reason: str
