"""Jobs under limits and clocks: the laws that every fit leans on."""

from __future__ import annotations

import numpy as np
import pytest

from models.twin.job import JobLaw, clock, one_job, run
from models.twin.training import Group

LAW = JobLaw(static_w=80.0, v_min=0.8, x_knee=0.75, x_floor=0.2)
JOB = one_job(time_s=1.0, light_share=0.2, dynamic_w=190.0, light_ratio=0.3, clock_share=0.3, static_w=80.0)
LIMITS = np.array([[60.0, 100.0, 125.0, 150.0, 200.0, 250.0, 300.0]])
FREE = np.full((1, 3), np.inf)


def test_lower_limits_are_slower_and_draw_less() -> None:
    time_s, watts = run(LAW, JOB, lock_x=np.ones_like(LIMITS), limit_w=LIMITS)
    assert np.all(np.diff(time_s[0]) <= 1e-12) and np.all(np.diff(watts[0]) >= -1e-9)
    assert time_s[0, -1] == pytest.approx(1.0)


def test_a_kept_limit_is_used_up_and_below_the_floor_it_is_not_kept() -> None:
    heavy = one_job(time_s=1.0, light_share=0.0, dynamic_w=190.0, light_ratio=1.0, clock_share=0.3, static_w=80.0)
    _, watts = run(LAW, heavy, lock_x=np.ones_like(LIMITS), limit_w=LIMITS)
    assert watts[0, 2:6] == pytest.approx(LIMITS[0, 2:6], abs=0.2)
    assert watts[0, 0] > 60.0  # the cliff: the clock cannot fall further
    at = clock(LAW, heavy, lock_x=np.ones_like(LIMITS), limit_w=LIMITS)
    assert at[0, 0] == LAW.x_floor


def test_below_the_floor_energy_rises_again() -> None:
    time_s, watts = run(LAW, JOB, lock_x=np.ones_like(LIMITS), limit_w=LIMITS)
    energy = (time_s * watts)[0]
    assert energy.argmin() not in (0, len(energy) - 1)


def test_a_lock_bounds_the_clock_and_time_follows_it() -> None:
    pure = one_job(time_s=1.0, light_share=0.0, dynamic_w=190.0, light_ratio=1.0, clock_share=1.0, static_w=80.0)
    locks = np.array([[0.5, 0.8, 1.0]])
    time_s, _ = run(LAW, pure, lock_x=locks, limit_w=FREE)
    assert time_s[0] == pytest.approx(1.0 / locks[0])
    bound = one_job(time_s=1.0, light_share=0.0, dynamic_w=190.0, light_ratio=1.0, clock_share=0.0, static_w=80.0)
    assert run(LAW, bound, lock_x=locks, limit_w=FREE)[0][0] == pytest.approx(np.ones(3))


def test_a_group_waits_for_its_slowest_rank_and_pays_for_the_wait() -> None:
    group = Group(LAW, JOB, slower=np.array([1.0, 1.0, 1.1]), hotter=np.ones(3), exchange_s=0.05, wait_w=100.0)
    step = group.step(limit_w=np.full(3, 300.0))
    assert step.straggler == 2
    assert step.step_s == pytest.approx(1.1 + 0.05)
    assert step.energy_j[0] == pytest.approx(step.watts[0] * 1.0 + 100.0 * 0.15)
    eased = group.step(limit_w=np.array([200.0, 200.0, 300.0]))
    assert eased.step_s <= step.step_s * 1.001 or eased.straggler != 2
    assert eased.energy_j.sum() < step.energy_j.sum()


def test_a_hotter_board_meets_its_limit_sooner() -> None:
    group = Group(LAW, JOB, slower=np.ones(2), hotter=np.array([1.0, 1.08]))
    step = group.step(limit_w=np.full(2, 180.0))
    assert step.busy_s[1] > step.busy_s[0]
    with pytest.raises(ValueError, match=r"\(3,\) limits for 2 ranks; give one for each"):
        group.step(limit_w=np.full(3, 180.0))
