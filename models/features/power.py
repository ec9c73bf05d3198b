"""Features of power: what a GPU draws, and what of it serves nobody."""

from __future__ import annotations

from models.features.terms import MICRO
from models.features.window import Floats, Windows, mean, ratio


def power_w_mean_60s(window: Windows) -> Floats:
    """Mean of the known power samples, watts."""
    return mean(window, "power_w")


def power_w_last(window: Windows) -> Floats:
    """Power of the newest sample, watts."""
    return window.newest("power_w")


def waste_w(window: Windows) -> Floats:
    """Mean watts above deep idle while nothing ran: mean of max(0, P - 35 W) where util <= 5 %, else 0."""
    return ratio(window.sum("waste"), window.sum("n:waste") * MICRO)
