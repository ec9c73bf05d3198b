"""Features of energy, from the GPU's own counter. A counter that went back or leapt gives no value."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.features.window import WIDTH, Floats, Mask, Stamps, Window

# No GPU board draws this much (the largest of 2026 are rated 1,400 W): a faster counter was reset or is broken.
MOST_W: Final = 3000.0
MJ_PER_J: Final = 1000.0


def energy_j_delta(window: Window) -> Floats:
    """Joules since the sample before that knew its counter, within the window.

    NaN when there is none, when the counter went back (driver reload), or when it leapt by more than 3,000 W allow.
    """
    known = window.known("energy_mj")
    rows = np.arange(len(known))
    before = _last(known[:, :-1], WIDTH - 1)
    counter, ts = window.columns["energy_mj"], window.ts_ns
    delta_j = (counter[:, -1] - counter[rows, before]) / MJ_PER_J
    usable = known[:, -1] & known[rows, before] & _plausible(delta_j, ts[:, -1] - ts[rows, before])
    return np.where(usable, delta_j, np.nan)


def j_per_token_60s(window: Window) -> Floats:
    """Joules of the GPU per token of its share: energy / (tokens of its engine / GPUs of its engine), both counters
    taken at the first and the last sample that know both.

    The mean over an engine's GPUs is the engine's joules per token. NaN when no engine reports, no token was made, or
    a counter went back.
    """
    both = window.known("energy_mj") & window.known("tokens")
    rows = np.arange(len(both))
    first, last = np.argmax(both, axis=1), _last(both, WIDTH)
    energy, tokens, ts = window.columns["energy_mj"], window.columns["tokens"], window.ts_ns
    spent_j = (energy[rows, last] - energy[rows, first]) / MJ_PER_J
    made = tokens[rows, last] - tokens[rows, first]
    usable = both[rows, last] & (made > 0.0) & _plausible(spent_j, ts[rows, last] - ts[rows, first])
    out = np.full(len(both), np.nan)
    np.divide(spent_j, made, out=out, where=usable)
    return out


def _last(known: Mask, width: int) -> NDArray[np.intp]:
    """Index of the last known place of each row; the last place when none is known."""
    from_the_right: NDArray[np.intp] = np.argmax(known[:, ::-1], axis=1)
    return (width - 1) - from_the_right


def _plausible(delta_j: Floats, elapsed_ns: Stamps) -> Mask:
    return (delta_j >= 0.0) & (delta_j <= MOST_W * (elapsed_ns / 1e9))
