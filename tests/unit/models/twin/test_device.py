"""The vectorised equations of the GPU, held to the scalar ones and to the limit's law."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from models.control import equations, predict
from models.control.profiles import LLAMA_70B_H100X4 as STACK
from models.twin.device import Load, capped, clock_factor, demand, idle_w, price

CLOCKS = (345 / 1980, 0.3, 0.55, 0.6, 0.61, 0.8, 0.95, 1.0)
LOADS = ((1, 900, 0), (1, 0, 511), (16, 18_000, 0), (16, 18_000, 496), (200, 350_000, 312), (256, 400_000, 64))
GRID = [(x, *load) for x, load in product(CLOCKS, LOADS)]


def _load(rows: list[tuple[float, ...]]) -> tuple[np.ndarray, Load]:
    x, running, kv, prefill = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    return x, Load(running, kv, prefill)


def test_seconds_and_watts_equal_the_scalar_equations() -> None:
    x, load = _load(GRID)
    t_s, watts = price(STACK, demand(STACK, load), x)
    for row, (clock, running, kv, prefill) in enumerate(GRID):
        scalar_s = predict.iteration_s(STACK, clock, running=running, kv_tokens=kv, prefill_tokens=prefill)
        scalar_w = predict.board_w(STACK, clock, running=running, kv_tokens=kv, prefill_tokens=prefill, t_s=scalar_s)
        assert t_s[row] == pytest.approx(scalar_s, rel=1e-9)
        assert watts[row] == pytest.approx(scalar_w, rel=1e-9)


def test_idle_watts_and_clock_factor_equal_the_scalar_equations() -> None:
    x = np.array(CLOCKS)
    assert clock_factor(STACK.device, x) == pytest.approx([predict.clock_factor(STACK.device, c) for c in CLOCKS], 1e-9)
    assert idle_w(STACK.device, x) == pytest.approx([predict.idle_w(STACK.device, c) for c in CLOCKS], rel=1e-9)
    plant = predict.plant_of(STACK)  # what the bench compiles
    assert idle_w(STACK.device, x) == pytest.approx([equations.idle_w(plant, c) for c in CLOCKS], rel=1e-9)
    assert clock_factor(STACK.device, x) == pytest.approx([equations.clock_factor(plant, c) for c in CLOCKS], rel=1e-9)


@pytest.mark.parametrize("limit_w", [250.0, 400.0, 550.0, 700.0])
def test_limit_is_kept_and_used_up(limit_w: float) -> None:
    x, load = _load(GRID)
    clock, _, watts = capped(STACK, load, x=x, cap_w=np.full(len(x), limit_w))
    _, free_w = price(STACK, demand(STACK, load), x)
    held = clock < x
    at_floor = clock <= STACK.device.fmin_mhz / STACK.device.fmax_mhz
    assert np.array_equal(held & ~at_floor, (free_w > limit_w) & ~at_floor)
    assert np.all(watts[~at_floor] <= limit_w)
    assert np.all(limit_w - watts[held & ~at_floor] < 0.06)


def test_capped_clock_equals_the_scalar_search() -> None:
    x, load = _load(GRID)
    clock, _, _ = capped(STACK, load, x=x, cap_w=np.full(len(x), 450.0))
    for row, (start, running, kv, prefill) in enumerate(GRID):
        scalar = predict.capped_clock(
            STACK, start, running=running, kv_tokens=kv, prefill_tokens=prefill, limit_w=450.0
        )
        assert clock[row] == pytest.approx(scalar, abs=4e-4)


def test_limit_is_not_honoured_below_the_clock_floor() -> None:
    floor = STACK.device.fmin_mhz / STACK.device.fmax_mhz
    load = Load(np.array([256.0]), np.array([400_000.0]), np.array([256.0]))
    clock, _, watts = capped(STACK, load, x=np.array([1.0]), cap_w=np.array([100.0]))
    assert clock[0] == pytest.approx(floor)
    assert watts[0] > 100.0


def test_published_batch_curve_of_70b_on_four_h100() -> None:
    """Measured batch -> time between tokens and watts (ML.ENERGY, Llama-3.1-70B on 4 H100); gate 6 % mean error each.

    The context length of those runs is not published: 300 tokens a sequence is assumed. In sample, no refit.
    """
    batch = np.array([8.0, 32.0, 64.0, 128.0, 256.0, 512.0])
    measured_ms = np.array([16.6, 20.0, 22.4, 27.9, 39.8, 73.9])
    measured_w = np.array([441.0, 449.0, 500.0, 546.0, 589.0, 623.0])
    load = Load(batch, batch * 300.0, np.zeros(6))
    _, t_s, watts = capped(STACK, load, x=np.ones(6), cap_w=np.full(6, 700.0))
    assert np.mean(np.abs(t_s * 1e3 / measured_ms - 1.0)) < 0.06
    assert np.mean(np.abs(watts / measured_w - 1.0)) < 0.06


def test_measured_prefill_slope_of_70b_on_four_h100() -> None:
    """2,083 prompt tokens took 0.189 s, 4,166 took 0.350 s: the difference is the compute-bound rate."""
    prompts = np.array([2_083.0, 4_166.0])
    t_s, _ = price(STACK, demand(STACK, Load(np.zeros(2), np.zeros(2), prompts)), np.ones(2))
    assert t_s[1] - t_s[0] == pytest.approx(0.350 - 0.189, rel=0.02)
