"""Fewer engines for the same load, and what their nodes draw at the wall."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.policy.strategies import STRATEGIES, strategy
from models.twin.node import MID
from models.twin.params import TwinParams
from models.whatif.control import StrategyControl
from models.whatif.replay import at_default, run
from models.whatif.replicas import bounds_ms, fewer, keeps, onto, wall_saving, wall_w
from models.whatif.series import Series
from tests.fakes import twin_archive as twin

PARAMS = TwinParams()
ENGINES, SECONDS = 4, 40


@pytest.fixture(scope="module")
def series() -> Series:
    """Four idle-ish engines for forty seconds; only what a replay needs."""
    hollow = twin.hollow(PARAMS, ENGINES)
    grid = np.zeros((ENGINES, SECONDS))
    return replace(
        hollow,
        start_ns=np.arange(SECONDS, dtype=np.int64) * 10**9,
        seam=np.zeros(SECONDS, dtype=np.bool_),
        **dict.fromkeys(("prompt", "generated", "finished", "running", "power_w", "lock_mhz"), grid),
        limit_w=grid + 700.0,
    )


def test_no_request_is_lost_and_hold_outs_keep_their_own(series: Series) -> None:
    held = replace(series, holdout=np.array([False, True, False, False]))
    work = twin.load(ENGINES, seed=3, per_s=2.0, seconds=SECONDS)
    part, moved = onto(held, work, 2)
    assert part.engines == ("node-a/r0", "node-a/r1", "node-a/r2") and part.holdout.tolist() == [False, True, False]
    assert sorted(moved.arrival_s.tolist()) == sorted(work.arrival_s.tolist())
    assert moved.prompt_tokens.sum() == work.prompt_tokens.sum() and moved.replica.max() == 2
    own = np.sort(work.arrival_s[work.replica == 1])
    assert np.array_equal(np.sort(moved.arrival_s[moved.replica == 1]), own)
    counts = np.bincount(moved.replica)
    assert abs(int(counts[0]) - int(counts[2])) <= 0.2 * counts[[0, 2]].sum()  # shared evenly


def test_light_load_needs_fewer_engines_and_saves_more_than_clocks(series: Series) -> None:
    work = twin.load(ENGINES, seed=3, per_s=0.8, seconds=SECONDS)
    replayed = np.arange(SECONDS) >= 10
    default = run(at_default(series), work, PARAMS)
    chosen = strategy("aggressive")

    def control(part: Series, _: object) -> StrategyControl:
        silent = twin.PooledTargets(part, chosen, window_s=120.0, reference=default)
        return StrategyControl(part, None, chosen, targets=silent, interval_s=5.0)

    found = fewer(series, work, PARAMS, chosen, default, replayed=replayed, make_control=control)
    assert found is not None and found.fewest < ENGINES and found.on == found.fewest + 1
    assert found.off == ENGINES - found.on > 0
    assert found.gpu_saving_replicas is not None and found.gpu_saving_replicas > 0.1
    assert found.wall is not None and found.wall.interval[0] <= found.wall.saving <= found.wall.interval[1]
    assert 0.0 < found.wall.saving < 1.0 and found.p99_ms is not None
    assert not found.extrapolated
    assert replace(found, crowd=9.0, shown_crowd=8.0).extrapolated


def test_a_bound_that_one_engine_less_breaks_keeps_them_all(series: Series) -> None:
    work = twin.load(ENGINES, seed=3, per_s=3.5, seconds=SECONDS)
    replayed = np.arange(SECONDS) >= 10
    default = run(at_default(series), work, PARAMS)
    strict = STRATEGIES["conservative"]
    assert keeps(default, bounds_ms(strict, default, replayed), replayed)
    found = fewer(series, work, PARAMS, strict, default, replayed=replayed, make_control=lambda *_: None)  # type: ignore[arg-type, return-value]
    assert found is not None and found.off == 0 and found.gpu_saving is None


def test_one_engine_is_never_switched_off(series: Series) -> None:
    held = replace(series, holdout=np.array([True, True, True, False]))
    work = twin.load(ENGINES, seed=3, per_s=0.5, seconds=SECONDS)
    default = run(at_default(held), work, PARAMS)
    every = np.ones(SECONDS, dtype=np.bool_)
    chosen = strategy("balanced")
    assert fewer(held, work, PARAMS, chosen, default, replayed=every, make_control=lambda *_: None) is None  # type: ignore[arg-type, return-value]


def test_watts_at_the_wall_fall_node_by_node() -> None:
    """Sixteen GPUs in two nodes: the second is off only when its last GPU is."""
    full, nine, eight, none = (wall_w(400.0, gpus_on=on, gpus=16, params=MID) for on in (16, 9, 8, 0))
    assert none == 2 * MID.off_w and none < eight < nine < full
    assert nine - eight > 1_000.0  # a whole host for one GPU
    assert full > 16 * 400.0
    saving = wall_saving(300.0, gpus_on=8, default_w=400.0, gpus=16)
    assert saving.interval[0] < saving.saving < saving.interval[1] and saving.saving > 0.5
