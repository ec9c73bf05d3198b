"""The local controller: which clock, how fast up and down, and every reason for default clocks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.control.controller import (
    ClockBounds,
    Decision,
    EngineState,
    LocalController,
    Observed,
    Targets,
)
from models.control.learn import SLACK_MIN
from models.control.predict import capped_clock, iteration_s
from models.control.profiles import LLAMA_70B_H100X4 as STACK

BOUNDS = ClockBounds(min_mhz=990, max_mhz=1980, default_mhz=1980, step_mhz=15)
QUIET = EngineState(age_s=0.2, running=10, waiting=0, waiting_tokens=0, kv_tokens=12_000)
TARGETS = Targets(tbt_ms=46.0, ttft_ms=700.0, e2e_ms=None)
RELAXED = Targets(tbt_ms=95.0, ttft_ms=1_200.0, e2e_ms=None)


class Loop:
    """A controller with its own time, half a second a step."""

    def __init__(self, *, known: bool = True) -> None:
        self.controller = LocalController(STACK if known else None)
        self.now = 100.0

    def step(
        self,
        state: EngineState | None = QUIET,
        *,
        targets: Targets = TARGETS,
        bounds: ClockBounds = BOUNDS,
        throttle: int = 0,
        observed: Observed | None = None,
    ) -> Decision:
        self.now += 0.5
        return self.controller.step(
            self.now, state, targets=targets, bounds=bounds, throttle=throttle, observed=observed
        )

    def settle(self, steps: int = 80, **how: object) -> Decision:
        for _ in range(steps):
            decision = self.step(**how)  # type: ignore[arg-type]
        return decision


def _mixed_ms(mhz: int) -> float:
    x = mhz / 1980
    return 1e3 * iteration_s(STACK, x, running=11, kv_tokens=12_000, prefill_tokens=501)


def test_settles_at_the_lowest_clock_whose_mixed_iteration_keeps_the_target() -> None:
    mhz = Loop().settle().sm_mhz
    assert mhz is not None
    assert _mixed_ms(mhz) <= TARGETS.tbt_ms < _mixed_ms(mhz - 15)


def test_default_clocks_under_a_ceiling_are_said_with_the_ceiling() -> None:
    """48 ms are kept at default clocks (44 ms), and by no clock that 250 W leave."""
    loop, target = Loop(), replace(TARGETS, tbt_ms=48.0)
    under = Observed(None, None, None, 0.0, limit_w=250.0)
    assert loop.settle(targets=target, observed=replace(under, limit_w=700.0)).sm_mhz is not None
    decision = loop.settle(targets=target, observed=under)
    assert decision.sm_mhz is None
    assert decision.reason.endswith("ms over 48.0 ms even at 1980 MHz under a power limit of 250 W: default clocks")
    assert loop.settle(targets=target).sm_mhz is not None  # nobody says the limit: the device's own


def test_a_limit_above_the_devices_own_changes_nothing() -> None:
    loops = [Loop(), Loop()]
    for loop, limit_w in zip(loops, (700.0, 5_000.0), strict=True):
        load = replace(QUIET, waiting=2, waiting_tokens=900)
        loop.settle(state=load, observed=Observed(None, None, None, 900.0, limit_w=limit_w))
    assert loops[0].controller._memory == loops[1].controller._memory


def test_first_token_target_decides_when_it_is_the_tighter_one() -> None:
    """A typical prompt at the worst moment: what runs ends first, 0.35 s at this clock, the rest at default clocks."""
    tight = replace(RELAXED, ttft_ms=150.0)
    mhz = Loop().settle(targets=tight).sm_mhz
    assert mhz is not None
    x = capped_clock(STACK, 1.0, running=11, kv_tokens=12_000, prefill_tokens=501, limit_w=700.0)
    top_ms, before_ms = (
        _mixed_ms(round(1980 * x)),
        1e3 * iteration_s(STACK, 1.0, running=11, kv_tokens=12_000, prefill_tokens=0),
    )

    def late_ms(clock: int) -> float:
        return before_ms + 1024 / 501 * top_ms + 350.0 * (1.0 - top_ms / _mixed_ms(clock))

    assert late_ms(mhz) <= 150.0 * 1.01 < 1.01 * late_ms(mhz - 30)


def test_end_to_end_target_decides_when_it_is_the_tighter_one() -> None:
    free = Loop().settle(targets=RELAXED).sm_mhz
    bound = Loop().settle(targets=replace(RELAXED, e2e_ms=13_500.0)).sm_mhz
    assert free is not None and bound is not None
    assert bound > free


def test_end_to_end_target_that_default_clocks_miss_is_kept_in_proportion() -> None:
    mhz = Loop().settle(targets=replace(RELAXED, e2e_ms=500.0)).sm_mhz
    assert mhz is not None and mhz < 1980
    decode = {x: iteration_s(STACK, x, running=10, kv_tokens=12_000, prefill_tokens=0.0) for x in (mhz / 1980, 1.0)}
    assert decode[mhz / 1980] <= 1.055 * decode[1.0]


def test_waits_for_three_clean_windows_then_goes_down_one_step_a_second() -> None:
    loop = Loop()
    clocks = [loop.step(targets=RELAXED).sm_mhz for _ in range(9)]
    assert clocks == [None, None, 1920, 1920, 1860, 1860, 1800, 1800, 1740]


def test_goes_up_in_one_step_and_after_clean_windows_back_to_a_proven_clock() -> None:
    loop = Loop()
    low = loop.settle(targets=RELAXED).sm_mhz
    up = loop.step(targets=TARGETS).sm_mhz
    assert low is not None and up is not None and up > low + 120
    assert [loop.step(targets=RELAXED).sm_mhz for _ in range(3)] == [up, up, low]


def test_a_tail_over_its_target_takes_the_proof_away() -> None:
    loop = Loop()
    loop.settle(targets=RELAXED)
    over = Observed(20.0, 1_200, None, 0.0, 120.0)
    up = loop.step(targets=replace(TARGETS, tbt_ms=60.0), observed=over).sm_mhz
    assert up is not None
    later = [loop.step(targets=RELAXED).sm_mhz for _ in range(3)]
    assert later == [up, up, up - 60]


def test_never_leaves_the_bounds_and_follows_them_at_once() -> None:
    loop = Loop()
    assert loop.settle(targets=RELAXED, bounds=replace(BOUNDS, min_mhz=1_700)).sm_mhz == 1_710
    assert loop.step(targets=RELAXED, bounds=replace(BOUNDS, max_mhz=1_600)).sm_mhz == 1_590
    assert loop.step(targets=RELAXED, bounds=replace(BOUNDS, min_mhz=1_800)).sm_mhz == 1_800


def test_needing_default_clocks_is_a_release_not_a_lock() -> None:
    loop = Loop()
    loop.settle()
    exact = _mixed_ms(1980) * 1.001
    assert loop.step(targets=replace(TARGETS, tbt_ms=exact)).sm_mhz is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"state": None}, "no engine signal"),
        ({"state": replace(QUIET, age_s=2.1)}, "engine signal is 2.1 s old"),
        ({"state": replace(QUIET, age_s=float("nan"))}, "engine signal is nan s old"),
        ({"state": replace(QUIET, running=None)}, "engine signal lacks"),
        ({"state": replace(QUIET, waiting_tokens=None)}, "engine signal lacks"),
        ({"state": replace(QUIET, kv_tokens=None)}, "engine signal lacks"),
        ({"state": replace(QUIET, waiting_tokens=9_000)}, "queue wait"),
        ({"state": replace(QUIET, waiting_tokens=7_500)}, "time to first token"),
        ({"targets": Targets(None, None, None)}, "no latency target"),
        ({"targets": replace(TARGETS, tbt_ms=20.0)}, "time between tokens"),
        ({"targets": replace(TARGETS, tbt_ms=float("nan"))}, "a latency target of nan ms cannot be kept"),
        ({"targets": replace(TARGETS, ttft_ms=float("nan"))}, "a latency target of nan ms cannot be kept"),
        ({"targets": replace(TARGETS, ttft_ms=-5.0)}, "a latency target of -5 ms cannot be kept"),
        ({"state": replace(QUIET, running=-3)}, "engine signal says -3 running, which cannot be"),
        ({"state": replace(QUIET, kv_tokens=10**15)}, "engine signal says 1e+15 KV tokens, which cannot be"),
        ({"state": replace(QUIET, waiting_tokens=-1)}, "engine signal says -1 waiting tokens"),
        ({"throttle": 0x8}, "thermal or power-brake reason 0x8"),
        ({"throttle": 0x20}, "thermal or power-brake reason 0x20"),
        ({"throttle": 0x40}, "thermal or power-brake reason 0x40"),
        ({"throttle": 0x80 | 0x4}, "thermal or power-brake reason 0x80"),
        ({"bounds": replace(BOUNDS, min_mhz=1_500, max_mhz=1_200)}, "the bounds hold no clock"),
    ],
)
def test_gives_default_clocks_back_at_once(how: dict[str, object], words: str) -> None:
    loop = Loop()
    assert loop.settle().sm_mhz is not None
    decision = loop.step(**how)  # type: ignore[arg-type]
    assert decision.sm_mhz is None
    assert words in decision.reason
    assert [loop.step().sm_mhz for _ in range(2)] == [None, None]


def test_our_own_limit_and_idle_are_no_reason_to_release() -> None:
    loop = Loop()
    before = loop.settle().sm_mhz
    assert loop.step(throttle=0x1).sm_mhz == before
    assert loop.step(throttle=0x4).sm_mhz == before


def test_unknown_stack_stays_at_95_percent_and_gives_way_to_a_queue() -> None:
    loop = Loop(known=False)
    assert loop.settle(targets=RELAXED).sm_mhz == 1_890
    assert "unknown stack" in loop.step(targets=RELAXED).reason
    assert loop.step(replace(QUIET, waiting_tokens=10), targets=RELAXED).sm_mhz is None
    assert loop.settle(targets=RELAXED, bounds=replace(BOUNDS, max_mhz=1_500)).sm_mhz is None


def test_no_target_keeps_an_unknown_stack_at_default_too() -> None:
    assert Loop(known=False).settle(targets=Targets(None, None, None)).sm_mhz is None


def _observed(mhz: int, *, decode: float, prefill: float) -> Observed:
    """What a stack with these errors would show at a clock, a fifth of its iterations mixed."""
    x, load = mhz / 1980, {"running": 10.0, "kv_tokens": 12_000.0}
    held = capped_clock(STACK, x, **load, prefill_tokens=502.0, limit_w=700.0)
    decode_s = iteration_s(STACK, x, **load, prefill_tokens=0.0)
    mixed_s = iteration_s(STACK, held, **load, prefill_tokens=502.0)
    mean_s = 0.8 * decode * decode_s + 0.2 * prefill * mixed_s
    return Observed(1e3 * mean_s, mhz, 500.0, 0.2 / mean_s * 502, 1e3 * prefill * mixed_s)


def test_slower_stack_than_its_profile_is_learned_and_clocked_higher() -> None:
    plain, taught = Loop(), Loop()
    right = plain.settle(targets=Targets(60.0, 2_000.0, None)).sm_mhz
    mhz = 1980
    for _ in range(300):
        observed = _observed(mhz, decode=1.1, prefill=1.2)
        mhz = taught.step(targets=Targets(60.0, 2_000.0, None), observed=observed).sm_mhz or 1980
    assert right is not None
    assert taught.controller.prefill_ratio == pytest.approx(1.2, abs=0.03)
    assert taught.controller.decode_ratio == pytest.approx(1.1, abs=0.05)
    assert mhz == pytest.approx(right * 1.2, rel=0.03)


def test_clock_that_was_never_set_does_not_teach_that_the_stack_is_fast() -> None:
    loop = Loop()
    for _ in range(200):
        loop.step(targets=RELAXED, observed=_observed(1980, decode=1.0, prefill=1.0))
    assert loop.controller.prefill_ratio > 0.97
    assert loop.controller.decode_ratio > 0.97


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 0.0, -3.0])
def test_senseless_observations_teach_nothing(value: float | None) -> None:
    loop = Loop()
    loop.settle(observed=Observed(value, 1_800, None, 2_000.0, value))
    assert (loop.controller.decode_ratio, loop.controller.prefill_ratio) == (1.0, 1.0)


def test_the_slack_is_told_once_late_first_tokens_are_counted_and_never_below_what_clocks_go_by() -> None:
    """Uncounted it is unknown: a plan must not read "all in time" from an engine that nobody counts."""
    loop = Loop()
    loop.settle(4)
    assert loop.controller.health().slack is None
    read = _observed(1980, decode=1.0, prefill=1.0)
    loop.settle(2, observed=replace(read, first_tokens=10.0, late_first_tokens=0.0))
    assert loop.controller.health().slack == pytest.approx(0.3, rel=0.05)
    loop.settle(20, observed=replace(read, first_tokens=10.0, late_first_tokens=10.0))
    assert loop.controller.health().slack == SLACK_MIN


def test_gaps_over_their_bound_take_from_what_is_left_and_a_count_that_cannot_be_does_not() -> None:
    read = replace(_observed(1980, decode=1.0, prefill=1.0), first_tokens=10.0, late_first_tokens=0.0)
    left = []
    for slow in (0.0, 300.0, 5_000.0):
        loop = Loop()
        loop.settle(20, observed=replace(read, gaps=2_000.0, slow_gaps=slow))
        left.append(loop.controller.health().slack)
    assert left[1] == SLACK_MIN and left[0] == left[2] is not None and left[0] > 0.3
