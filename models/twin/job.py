"""Training and batch jobs: clock and power limit to seconds and watts of one step, vectorised over jobs and settings.

The device's equations are those of serving: g(x) = x v(x)**2, the highest clock up to the lock that keeps the limit,
and at the clock floor the limit is no longer kept (the cliff of an A40 at 125 W). A job has two phases, a heavy and a
light one, each slowed by the fourth-power mean of a part that follows the clock and one that does not. It must not
know of schedules or of measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.twin.device import knee_factor

Array = NDArray[np.float64]

GRID_X: Final = np.linspace(0.02, 1.0, 400)


@dataclass(frozen=True, slots=True)
class JobLaw:
    """What all jobs of one device share; x = SM clock / highest clock."""

    static_w: float  # drawn by a busy device whatever its clock
    v_min: float
    x_knee: float
    x_floor: float  # no limit brings the clock below this
    sharpness: float = 4.0  # of the corner between memory-bound and clock-bound time; 4 in the serving equations


@dataclass(frozen=True, slots=True)
class Jobs:
    """One element per job."""

    time_s: Array  # of a step (or an epoch) at full clock
    light_share: Array  # of that time, in the light phase
    dynamic_w: Array  # clock-dependent watts of the heavy phase at full clock
    light_ratio: Array  # the same of the light phase, relative to the heavy one
    clock_share: Array  # 0 = the clock does not matter at full clock, 1 = time follows 1/x
    static_w: Array  # of this job: the device's, times what its memory traffic adds or saves

    def take(self, rows: NDArray[np.intp]) -> Jobs:
        return Jobs(
            self.time_s[rows],
            self.light_share[rows],
            self.dynamic_w[rows],
            self.light_ratio[rows],
            self.clock_share[rows],
            self.static_w[rows],
        )


def one_job(**values: float) -> Jobs:
    """A single job from plain numbers."""
    return Jobs(**{name: np.array([value]) for name, value in values.items()})


def run(law: JobLaw, jobs: Jobs, *, lock_x: Array, limit_w: Array) -> tuple[Array, Array]:
    """Seconds of a step and mean watts, at each setting (columns) of each job (rows)."""
    table = knee_factor(GRID_X, v_min=law.v_min, x_knee=law.x_knee)
    heavy = _phase(law, table, jobs, jobs.dynamic_w, lock_x=lock_x, limit_w=limit_w)
    light = _phase(law, table, jobs, jobs.dynamic_w * jobs.light_ratio, lock_x=lock_x, limit_w=limit_w)
    share = jobs.light_share[:, None]
    heavy_s, light_s = (1.0 - share) * heavy[0], share * light[0]
    total = heavy_s + light_s
    return jobs.time_s[:, None] * total, (heavy_s * heavy[1] + light_s * light[1]) / total


def clock(law: JobLaw, jobs: Jobs, *, lock_x: Array, limit_w: Array) -> Array:
    """Clock of the heavy phase."""
    table = knee_factor(GRID_X, v_min=law.v_min, x_knee=law.x_knee)
    return _clock(law, table, jobs.static_w[:, None], jobs.dynamic_w[:, None], lock_x=lock_x, limit_w=limit_w)


def slowed(law: JobLaw, jobs: Jobs, factor: float) -> Jobs:
    """The same jobs on a slower rank: hotter, older or with a slower link."""
    if not factor > 0.0:
        raise ValueError(f"a slowdown factor of {factor:g} is not above 0; 1.1 means a tenth slower")
    return replace(jobs, time_s=jobs.time_s * factor)


def _phase(
    law: JobLaw, table: Array, jobs: Jobs, dynamic_w: Array, *, lock_x: Array, limit_w: Array
) -> tuple[Array, Array]:
    static, dynamic = jobs.static_w[:, None], dynamic_w[:, None]
    x = _clock(law, table, static, dynamic, lock_x=lock_x, limit_w=limit_w)
    share = jobs.clock_share[:, None]
    relative: Array = ((1.0 - share) + share * x**-law.sharpness) ** (1.0 / law.sharpness)
    return relative, static + dynamic * knee_factor(x, v_min=law.v_min, x_knee=law.x_knee)


def _clock(law: JobLaw, table: Array, static: Array, dynamic: Array, *, lock_x: Array, limit_w: Array) -> Array:
    """Highest clock up to the lock that keeps the limit, never below the floor (or below a lock that is lower)."""
    room = (limit_w - static) / np.maximum(dynamic, 1e-3)
    kept = np.where(room >= 1.0, 1.0, np.interp(room, table, GRID_X))
    found: Array = np.minimum(np.maximum(kept, law.x_floor), lock_x)
    return found
