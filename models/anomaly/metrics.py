"""What the robust detector looks at: one row per metric, with the least scale that counts and what a verdict may do.

Power and thermal slope are taken relative to the other GPUs of the same serving engine, which run in step under the
same load and the same clocks: so neither a change of load nor one of our own envelopes looks like a fault. Throttling
is left out on purpose: a power limit that we granted shows there. So are joules per token: with few tokens they are
heavy tailed, and the efficiency regression judges the same thing with the load known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Action = Literal["freeze", "alert"]
Peers = Literal["none", "difference", "ratio"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One judged quantity, in the unit of its name."""

    name: str
    feature: str
    peers: Peers  # whether and how it is taken relative to the median of the engine's GPUs
    scale_floor: float  # deviations smaller than this are never strange, however steady the past was
    both: bool  # False: only upwards is strange
    action: Action


METRICS: Final = (
    Metric("power_ratio_to_peers", "power_w_mean_60s", "ratio", 0.02, True, "freeze"),
    Metric("temp_slope_c_per_min_over_peers", "temp_slope_c_per_min", "difference", 0.5, False, "freeze"),
    Metric("waste_w", "waste_w", "none", 10.0, False, "alert"),
)
