"""Actuation of the boards: when a lock lands, how a limit settles, who is the slowest."""

from __future__ import annotations

import numpy as np
import pytest

from models.control.profiles import H100_SXM
from models.twin.board import Boards
from models.twin.params import ActuationParams

FREE = np.zeros(4)
FULL = np.full(4, 700.0)
COOL = np.ones(4)


def _boards(factor: np.ndarray | None = None) -> Boards:
    return Boards(H100_SXM, ActuationParams(), factor=np.ones(4) if factor is None else factor, per_replica=2)


def test_lock_lands_after_its_delay_and_on_the_device_grid() -> None:
    boards = _boards()
    boards.ask(10.0, sm_lock_mhz=np.full(4, 1499.0), limit_w=FULL)
    assert boards.landings(10.05) == []
    assert boards.landings(10.2) == [pytest.approx(10.1)]
    boards.step(10.05, 0.05)
    assert boards.clocks(COOL).x == pytest.approx([1.0, 1.0])
    assert boards.step(10.1, 0.05)
    assert boards.clocks(COOL).x == pytest.approx([1485 / 1980] * 2)


def test_newer_wish_does_not_postpone_the_landing() -> None:
    boards = _boards()
    boards.ask(0.0, sm_lock_mhz=np.full(4, 1500.0), limit_w=FULL)
    boards.ask(0.08, sm_lock_mhz=np.full(4, 1200.0), limit_w=FULL)
    boards.step(0.1, 0.02)
    assert boards.clocks(COOL).x == pytest.approx([1200 / 1980] * 2)


def test_lock_outside_the_device_is_moved_inside_and_zero_means_none() -> None:
    boards = _boards()
    boards.ask(0.0, sm_lock_mhz=np.array([10.0, 10.0, 0.0, 5000.0]), limit_w=FULL)
    boards.step(0.1, 0.1)
    assert boards.clocks(COOL).x == pytest.approx([345 / 1980, 1.0])


def test_slowest_gpu_and_tightest_limit_decide_for_the_replica() -> None:
    boards = _boards(factor=np.array([1.0, 1.05, 1.0, 1.0]))
    boards.ask(0.0, sm_lock_mhz=np.array([1980.0, 990.0, 0.0, 0.0]), limit_w=FULL)
    boards.step(0.1, 0.1)
    clocks = boards.clocks(COOL)
    assert clocks.x == pytest.approx([0.5, 1.0])
    assert clocks.cap_w == pytest.approx([700.0 / 1.05, 700.0])


def test_limit_settles_in_three_time_constants_and_then_exactly() -> None:
    boards = _boards()
    boards.ask(0.0, sm_lock_mhz=FREE, limit_w=np.full(4, 400.0))
    boards.step(1.0, 1.0)
    assert boards.limit_w == pytest.approx(400.0 + 300.0 * np.exp(-1.0))
    boards.step(3.0, 2.0)
    assert np.all(boards.limit_w - 400.0 < 0.06 * 300.0)
    for second in range(4, 12):
        boards.step(float(second), 1.0)
    assert np.array_equal(boards.limit_w, np.full(4, 400.0))
    assert not boards.step(12.0, 1.0)


def test_limit_outside_the_device_is_moved_inside() -> None:
    boards = _boards()
    boards.ask(0.0, sm_lock_mhz=FREE, limit_w=np.array([0.0, 150.0, 900.0, 700.0]))
    boards.step(60.0, 60.0)
    boards.step(61.0, 1.0)
    assert boards.limit_w == pytest.approx([200.0, 200.0, 700.0, 700.0])


def test_heat_ceiling_holds_but_never_below_the_clock_floor() -> None:
    clocks = _boards().clocks(np.array([0.8, 1.0, 0.0, 1.0]))
    assert clocks.x == pytest.approx([0.8, 345 / 1980])
