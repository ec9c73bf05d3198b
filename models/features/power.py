"""Features of power: what a GPU draws, and what of it serves nobody."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.features.window import Floats, Window, count, mean, ratio, total

IDLE_UTIL_RATIO: Final = 0.05  # no kernel resident for 95 % of the interval
# Deep idle of a GPU whose context is released: about 35 W, against about 110 W with a model loaded at full clocks
# (Lei et al., arXiv 2604.04745; 10.7 % of energy in their traces is drawn while nothing executes).
DEEP_IDLE_W: Final = 35.0


def power_w_mean_60s(window: Window) -> Floats:
    """Mean of the known power samples, watts."""
    return mean(window, "power_w")


def power_w_last(window: Window) -> Floats:
    """Power of the newest sample, watts."""
    return window.newest("power_w")


def waste_w(window: Window) -> Floats:
    """Mean watts above deep idle while nothing ran: mean of max(0, P - 35 W) where util <= 5 %, else 0."""
    power, util = window.known("power_w"), window.known("util_ratio")
    both = power if power is util else power & util
    above = window.filled("power_w") - DEEP_IDLE_W
    np.maximum(above, 0.0, out=above)
    above *= both & (window.filled("util_ratio") <= IDLE_UTIL_RATIO)
    return ratio(total(above), count(both))
