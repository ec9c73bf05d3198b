"""One training job over its life: pacing, slack of ranks that wait, jobs that change, units that cannot be."""

from __future__ import annotations

from math import exp, inf, nan
from random import Random

import numpy as np
import pytest

from models.control.training_session import Session, Unit, clocks
from models.twin.job import JobLaw, one_job, run

LAW = JobLaw(static_w=110.0, v_min=0.70, x_knee=0.60, x_floor=0.17)
GRID = clocks(1200, 1980, 15)


class Job:
    """Steps of a job at a clock, as the twin has them, with noise."""

    def __init__(self, clock_share: float, *, seed: int = 1, sigma: float = 0.02) -> None:
        job = one_job(
            time_s=0.8, light_share=0.3, dynamic_w=520.0, light_ratio=0.6, clock_share=clock_share, static_w=120.0
        )
        self.table = {}
        for mhz in GRID:
            time_s, watts = run(LAW, job, lock_x=np.array([[mhz / 1980]]), limit_w=np.array([[700.0]]))
            self.table[mhz] = float(time_s[0, 0]), float(watts[0, 0])
        self.rng, self.sigma = Random(seed), sigma

    def unit(self, mhz: float, *, wait_s: float = 0.0) -> Unit:
        time_s, watts = self.table[mhz]
        busy = time_s * exp(self.rng.gauss(0.0, self.sigma))
        return Unit(busy + wait_s, 2.0, watts, wait_s)

    def slowdown(self, mhz: float) -> float:
        return self.table[mhz][0] / self.table[1980.0][0] - 1.0

    def saving(self, mhz: float) -> float:
        (t, w), (t0, w0) = self.table[mhz], self.table[1980.0]
        return 1.0 - t * w / (t0 * w0)

    def oracle(self, bound: float) -> float:
        return max((self.saving(mhz) for mhz in GRID if self.slowdown(mhz) <= bound), default=0.0)


def drive(session: Session, job: Job, units: int, *, wait_s: float = 0.0) -> None:
    for _ in range(units):
        session.feed(job.unit(session.setting, wait_s=wait_s))


def new(**more: object) -> Session:
    given: dict[str, object] = {"reference": 1980.0, "bound": 0.05, "run_steps": 40_000, **more}
    return Session(GRID, **given)  # type: ignore[arg-type]


def test_the_grid_is_dense_near_the_reference_and_on_the_devices_steps() -> None:
    assert GRID[-1] == 1980.0 and GRID[0] == 1200.0 and all(mhz % 15 == 0 for mhz in GRID)
    assert GRID[-1] - GRID[-2] == 15.0 < GRID[1] - GRID[0]
    assert clocks(1980, 1980, 15) == (1980.0,)
    assert clocks(2000, 1980, 15) == (1980.0,)


def test_choices_keep_the_bound_save_most_of_what_can_be_and_cost_little() -> None:
    saved = possible = 0.0
    for clock_share in (0.3, 0.6, 1.0):
        for seed in (1, 2, 3):
            job, session = Job(clock_share, seed=seed), new()
            drive(session, job, 4000)
            assert session.state == "chosen" and session.choice is not None, session.reason
            assert job.slowdown(session.choice.setting) <= 0.05
            saved, possible = saved + job.saving(session.choice.setting), possible + job.oracle(0.05)
            drive(session, job, 16_000)
            assert session.spent_ratio <= 0.05
    assert saved >= 0.85 * possible


def test_a_rank_is_slowed_into_the_room_that_its_group_gives_and_no_further() -> None:
    job, session, alone = Job(1.0), new(), new()
    drive(alone, Job(1.0), 4000)
    session.allow(0.25)
    drive(session, job, 4000)
    assert session.choice is not None and alone.choice is not None
    assert session.choice.setting < alone.choice.setting - 100.0
    assert job.slowdown(session.choice.setting) <= 0.25


def test_waits_alone_give_no_room() -> None:
    """The others may be waiting for this rank: every one of them slowed for a straggler that has left."""
    job, session = Job(1.0), new()
    drive(session, job, 4000, wait_s=0.2)
    assert session.choice is not None and job.slowdown(session.choice.setting) <= 0.05


def test_a_job_that_changes_is_measured_anew_from_the_reference() -> None:
    job, session = Job(0.6), new()
    drive(session, job, 2000)
    assert session.state == "chosen"
    job.table = {mhz: (1.4 * t, w) for mhz, (t, w) in job.table.items()}
    for _ in range(40):
        session.feed(job.unit(session.setting))
        if session.setting == 1980.0 and session.choice is None:
            break
    assert "so the job has changed" in session.reason
    drive(session, job, 3000)
    assert session.state == "chosen"
    assert session.spent_ratio <= 0.05 * 20_000 / 5_000  # two searches out of the whole run's budget


def test_nothing_is_measured_beyond_the_budget_of_a_run_whose_length_nobody_knows() -> None:
    job, session = Job(0.6), new(run_steps=None)
    for _ in range(3000):
        session.feed(job.unit(session.setting))
        assert session.spent_ratio <= 0.06


def test_a_short_run_is_left_at_the_reference() -> None:
    session = new(run_steps=100)
    drive(session, Job(0.6), 500)
    assert (session.state, session.setting) == ("kept", 1980.0)
    assert "too few for one comparison" in session.reason


@pytest.mark.parametrize(
    "unit",
    [Unit(nan, 1.0, 300.0), Unit(inf, 1.0, 300.0), Unit(-1.0, 1.0, 300.0), Unit(1.0, 0.0, 300.0), Unit(1.0, 1.0, nan),
     Unit(1.0, 1.0, 0.0), Unit(1.0, 1.0, 300.0, 1.5), Unit(1.0, 1.0, 300.0, -0.1), Unit(1.0, 1.0, 300.0, nan)],
)  # fmt: skip
def test_a_unit_that_cannot_be_is_left_out(unit: Unit) -> None:
    job, session = Job(0.6), new()
    drive(session, job, 300)
    state, spent = session.state, session.spent_ratio
    for _ in range(50):
        session.feed(unit)
    assert (session.state, session.spent_ratio) == (state, spent)


def test_a_spoilt_block_is_measured_again() -> None:
    job, session = Job(0.6), new()
    drive(session, job, 17)
    assert session.state == "measuring"
    drive(session, job, 10)
    session.spoil()
    assert len(session._block) == 0 and session.state == "measuring"
