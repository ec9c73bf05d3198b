"""What the robust detector looks at: one row per metric, with the least scale that counts and what a verdict may do.

Power and thermal slope are taken relative to the other GPUs of the same serving engine, which run in step under the
same load and the same clocks: so neither a change of load nor one of our own envelopes looks like a fault. Throttling
is left out on purpose: a power limit that we granted shows there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Action = Literal["freeze", "alert"]
Peers = Literal["none", "difference", "ratio"]
LEAST_PEERS: Final = 3  # a median of fewer GPUs is one of them


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
    Metric("j_per_token_60s", "j_per_token_60s", "none", 0.2, False, "alert"),
)


def to_peers(values: Floats, group: NDArray[np.int64], *, ratio: bool) -> Floats:
    """Each value minus (or divided by) the median of its group, NaN without a group (-1) or where fewer than
    LEAST_PEERS values are known."""
    out = np.full(len(values), np.nan)
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order])) + 1
    for rows in np.split(order, edges):
        if len(rows) < LEAST_PEERS or group[rows[0]] < 0:
            continue
        known = values[rows][np.isfinite(values[rows])]
        if len(known) >= LEAST_PEERS:
            middle = float(np.median(known))
            if not ratio:
                out[rows] = values[rows] - middle
            elif middle > 0.0:
                out[rows] = values[rows] / middle
    return out
