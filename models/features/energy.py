"""Features of energy, from the GPU's own counter. A counter that went back or leapt gives no value."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.features.terms import Mask
from models.features.window import Floats, Ints, Windows

# No GPU board draws this much (the largest of 2026 are rated 1,400 W): a faster counter was reset or is broken.
MOST_W: Final = 3000.0
MJ_PER_J: Final = 1000.0


def energy_j_delta(window: Windows) -> Floats:
    """Joules since the sample before that knew its counter, within the window.

    NaN when there is none, when the counter went back (driver reload), or when it leapt by more than 3,000 W allow.
    """
    gained_mj, elapsed_ns = window.step("energy_mj")
    delta_j = gained_mj / MJ_PER_J
    return np.where(_plausible(delta_j, elapsed_ns), delta_j, np.nan)


def j_per_token_60s(window: Windows) -> Floats:
    """Joules of the GPU per token of its share: energy / (tokens of its engine / GPUs of its engine), both counters
    taken at the first and the last sample that know both.

    The mean over an engine's GPUs is the engine's joules per token. NaN when no engine reports, no token was made, or
    a counter went back.
    """
    gained_mj, made, elapsed_ns = window.span("energy_mj", "tokens")
    spent_j = gained_mj / MJ_PER_J
    usable = (made > 0.0) & _plausible(spent_j, elapsed_ns)
    out = np.full(len(made), np.nan)
    np.divide(spent_j, made, out=out, where=usable)
    return out


def _plausible(delta_j: Floats, elapsed_ns: Ints) -> Mask:
    return (delta_j >= 0.0) & (delta_j <= MOST_W * (elapsed_ns / 1e9))
