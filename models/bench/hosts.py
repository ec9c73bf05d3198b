"""The wall's second figure: hosts that draw less while their GPUs rest, by the twin's own equation (models.twin.node).

The bench's rule counts a constant host; it stays the one that aims are judged by. It must not touch a run: what a
policy sees is the rule's host.
"""

from __future__ import annotations

from math import nan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.bench import state as st
from models.bench.run import Outcome
from models.twin.node import HIGH, LOW, MID, NodeParams

HOSTS: Final[dict[str, NodeParams]] = {"low": LOW, "mid": MID, "high": HIGH}


def resting_wall_j(outcome: Outcome, host: NodeParams) -> NDArray[np.float64]:
    """Energy at the wall of each hour, joules: a live host draws host_idle_w, and up to host_busy_w with its GPUs.

    Busy is the share of time in which a GPU computes, as a mean over the node's GPUs; those without a model, and those
    on which one loads, are not. All else (boards, fans, supplies, what a dark node draws) is as in `Outcome.wall_j`.
    """
    live_s, busy_s = _seconds(outcome)
    change_j = (host.host_idle_w - outcome.node.host_w) * live_s + (host.host_busy_w - host.host_idle_w) * busy_s
    found: NDArray[np.float64] = outcome.wall_j + change_j / outcome.node.supply_ratio
    return found


def busy_ratio(outcome: Outcome) -> float:
    """Mean busy share of live hosts; NaN when none was live."""
    live_s, busy_s = _seconds(outcome)
    return float(busy_s.sum() / live_s.sum()) if live_s.sum() > 0.0 else nan


def resting_hosts(mine: Outcome, zero: Outcome, one: Outcome) -> dict[str, Any]:
    """What a row of a comparison says of it, ratios throughout.

    `wall_saving_resting_host_ratio`: 1 - energy / baseline energy against b0 and b1, with the twin's middle host.
    `wall_saving_resting_host_b0_ratio`: against b0 by variant of the host. `host_busy_ratio`: mean over live hosts.
    """

    def joules(outcome: Outcome, host: NodeParams) -> float:
        return float(resting_wall_j(outcome, host).sum())

    return {
        "wall_saving_resting_host_ratio": {
            name: 1.0 - joules(mine, MID) / joules(base, MID) for name, base in (("b0", zero), ("b1", one))
        },
        "wall_saving_resting_host_b0_ratio": {
            name: 1.0 - joules(mine, host) / joules(zero, host) for name, host in HOSTS.items()
        },
        "host_busy_ratio": busy_ratio(mine),
    }


def _seconds(outcome: Outcome) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each hour: seconds of live hosts, and those of them in which their GPUs computed."""
    live_s = outcome.hours[:, st.H_HOST_S]
    # An iteration belongs to the hour of its beginning, which may book a moment more than the hour has.
    return live_s, np.minimum(outcome.hours[:, st.H_BUSY_S] / outcome.node.replicas, live_s)
