"""The part "a wrong model" of the control bench: which truths, what the right model is, and the first minutes of each.

Whatever is simulated is said by its caller; nothing in here runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bench.compare import truth_of
from models.bench.run import Case, Outcome

BANDIT: Final = "ucb unshielded"
HALF_HOUR, HOUR, WINDOW = 30, 60, 10  # minutes
NEAR: Final = 0.03  # of saving, below the right model's
F8 = NDArray[np.float64]


def wrong_cases(case: Case) -> dict[str, tuple[Case, Case]]:
    """What is wrong -> the truth with the shipped belief, and the same truth with the right one."""
    belief, stream = case.belief, case.stream
    slow = belief._replace(flop_share=belief.flop_share * 0.75, flop_inverse=belief.flop_inverse / 0.75)
    longer = replace(stream, prompt=(stream.prompt * 1.5).astype("i4"), output=(stream.output * 1.5).astype("i4"))
    truths = {"prefill a quarter slower": slow, "kappa low": truth_of("low"), "kappa high": truth_of("high")}
    found = {
        label: (replace(case, truth=true), replace(case, truth=true, belief=true)) for label, true in truths.items()
    }
    lengths, change = replace(case, stream=longer), (stream.seconds / 2, slow)
    found["lengths x1.5"] = (lengths, replace(lengths, long_prompt=1.5 * case.long_prompt))
    found["another model in mid-run"] = (replace(case, later=change), replace(case, later=change, told=change))
    return found


def first_minutes(mine: Outcome, right: Outcome, zero: Outcome, from_minute: int) -> dict[str, float | None] | None:
    """A policy's first half hour beside the right model's, counted from a minute; None where less than an hour is left.

    `gpu_saving_ratio`: below b0 in that half hour. `extra_missed_ratio`: share of its requests that were missed beyond
    the right model's. `near_after_minutes`: from then to the end of the first hour the saving of each last ten minutes
    is at most three points below the right model's; None: not within that hour.
    """
    ours, its, base = (_since(one.minutes, from_minute) for one in (mine, right, zero))
    if len(ours) <= HOUR:
        return None
    short = [m for m in range(WINDOW, HOUR + 1) if _saved(its, base, m) - _saved(ours, base, m) > NEAR]
    near = WINDOW if not short else short[-1] + 1
    requests = ours[HALF_HOUR, 1]
    return {
        "gpu_saving_ratio": 1.0 - float(ours[HALF_HOUR, 0] / base[HALF_HOUR, 0]),
        "extra_missed_ratio": float((ours[HALF_HOUR, 2] - its[HALF_HOUR, 2]) / requests) if requests > 0.0 else None,
        "near_after_minutes": float(near) if near <= HOUR else None,
    }


def _since(minutes: F8, from_minute: int) -> F8:
    """Row k: what was counted in the first k minutes from there."""
    whole = np.vstack([np.zeros((1, 3)), minutes])[from_minute:]
    found: F8 = whole - whole[:1]
    return found


def _saved(mine: F8, base: F8, minute: int) -> float:
    """Of the ten minutes that end there."""
    spent = (one[minute, 0] - one[minute - WINDOW, 0] for one in (mine, base))
    ours, its = spent
    return 1.0 - float(ours / its)
