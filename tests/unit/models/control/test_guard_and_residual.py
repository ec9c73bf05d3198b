"""What keeps the controller honest: the hour's misses, the prediction's own error, and input that cannot be."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest

from models.control import memory as core
from models.control.controller import ClockBounds, EngineState, LocalController, Observed, Targets
from models.control.equations import iteration_s, under_limit
from models.control.guard import GUARD_S, MissGuard
from models.control.learn import learn
from models.control.memory import Load, Tuning
from models.control.predict import plant_of
from models.control.profiles import LLAMA_70B_H100X4 as STACK
from models.control.residual import Residual, predict

PLANT = plant_of(STACK)
BOUNDS = ClockBounds(min_mhz=990, max_mhz=1980, default_mhz=1980, step_mhz=15)
STATE = EngineState(age_s=0.2, running=10, waiting=0, waiting_tokens=0, kv_tokens=12_000)
TARGETS = Targets(tbt_ms=60.0, ttft_ms=1_500.0, e2e_ms=None)
LOAD = Load(10.0, 0.0, 12_000.0, 2_000.0, nan, 200.0, 0.03, 0.04, 0.9, 350.0)


def _memory() -> list[float]:
    memory = [0.0] * core.S_SIZE
    core.begin(memory, PLANT, 1024.0)
    memory[core.S_STARTED] = 1.0
    return memory


# --- the guard ---


def test_the_guard_holds_above_one_percent_of_an_hour_and_lets_go_when_the_hour_has_passed() -> None:
    guard = MissGuard(100.0)
    assert not guard.holds(160.0, 1000.0, 10.0)  # one percent exactly is inside
    assert guard.holds(160.5, 1000.0, 11.0)
    assert guard.missed_ratio == pytest.approx(0.011)
    at, requests = 160.5, 1000.0
    for _ in range(int((GUARD_S - 61.0) / 0.5)):
        at, requests = at + 0.5, requests + 0.001  # hardly anything comes, and a minute is the grain
        held = guard.holds(at, requests, 11.0)
    assert held
    for _ in range(200):
        at += 0.5
        held = guard.holds(at, requests, 11.0)
    assert not held


def test_the_guard_says_nothing_about_a_handful_of_requests() -> None:
    guard = MissGuard()
    assert not guard.holds(10.0, 49.0, 49.0)
    assert guard.missed_ratio is None
    assert guard.holds(11.0, 50.0, 50.0)


def test_the_guard_remembers_an_hour_in_bounded_memory_and_outlives_a_clock_that_goes_back() -> None:
    guard = MissGuard()
    for step in range(20_000):
        guard.holds(step * 0.5, float(step), 0.0)
    assert len(guard._seen) <= 63
    assert guard.holds(-5.0, 20_000.0, 100.0)  # counted as of the newest time that was seen
    assert guard.missed_ratio == pytest.approx(100 / 7200, rel=0.02)


# --- the residual ---


def test_a_window_that_came_as_predicted_teaches_nothing() -> None:
    """Holds this prediction to the one inside `learn.learn`, which nobody can ask."""
    memory = _memory()
    memory[core.S_DECODE], memory[core.S_PREFILL] = 1.2, 1.1
    load = LOAD
    for _ in range(60):  # the share of mixed iterations hangs on the gap itself: a fixed point
        seen = predict(PLANT, memory, load, 0.5)
        assert seen is not None
        load = load._replace(mean_s=seen.gap_s, tail_s=nan)
    learn(PLANT, Tuning(), memory, load, 10.0, 0.5)
    assert (memory[core.S_DECODE], memory[core.S_PREFILL]) == pytest.approx((1.2, 1.1), abs=1e-9)
    residual = Residual()
    again = predict(PLANT, memory, load, 0.5)
    assert again is not None and again.clear
    residual.observe(again, load, settled=True)
    assert residual.time_error == pytest.approx(0.0, abs=1e-9)


def _observe(residual: Residual, load: Load) -> None:
    seen = predict(PLANT, _memory(), load, 0.5)
    assert seen is not None
    residual.observe(seen, load, settled=True)


def test_an_error_is_the_measured_over_the_predicted() -> None:
    seen = predict(PLANT, _memory(), LOAD._replace(prefilled=0.0), 0.5)
    assert seen is not None
    residual, load = Residual(), LOAD._replace(prefilled=0.0, mean_s=1.3 * seen.gap_s, watts=1.1 * seen.gpu_w)
    _observe(residual, load)
    assert residual.time_error == pytest.approx(0.3)
    assert residual.power_error == pytest.approx(0.1)
    for _ in range(200):
        _observe(residual, load)
    assert residual.power_ratio == pytest.approx(1.1, abs=1e-3)
    assert residual.power_error == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(
    "change", [{"running": 0.0}, {"prefilled": nan}, {"mean_s": nan}, {"mean_s": inf}, {"mean_s": -1.0}]
)
def test_windows_that_say_nothing_are_not_judged(change: dict[str, float]) -> None:
    assert predict(PLANT, _memory(), LOAD._replace(**change), 0.5) is None
    assert predict(PLANT, _memory(), LOAD, 0.0) is None


def _drifts(*windows: tuple[float, float, float]) -> list[bool]:
    """Windows as (mean over predicted, tail over a full iteration, prompt tokens)."""
    residual, told = Residual(), []
    for mean, tail, prefilled in windows:
        seen = predict(PLANT, _memory(), LOAD._replace(prefilled=prefilled), 0.5)
        assert seen is not None
        residual.forget()
        load = LOAD._replace(prefilled=prefilled, mean_s=mean * seen.gap_s, tail_s=tail * seen.full_s)
        _observe(residual, load)
        told.append(residual.drifted)
    return told


def test_three_bad_windows_are_a_drift_two_very_bad_ones_too_and_a_good_one_clears_them() -> None:
    bad, awful, good = (1.3, 0.9, 0.0), (1.6, 0.9, 0.0), (1.0, 0.9, 0.0)
    assert _drifts(bad, bad, bad) == [False, False, True]
    assert _drifts(awful, awful) == [False, True]
    assert _drifts(bad, bad, good, bad, bad) == [False] * 5
    assert _drifts((0.7, 0.5, 0.0), (0.7, 0.5, 0.0), (0.7, 0.5, 0.0))[-1]  # faster than predicted is no model either


def test_a_window_with_part_of_a_chunk_in_it_neither_counts_nor_clears() -> None:
    bad, part = (1.3, 0.9, 0.0), (1.0, 0.9, 100.0)
    assert _drifts(bad, part, bad, part, part, bad)[-1]
    assert _drifts((1.0, 1.3, 100.0), (1.0, 1.3, 100.0), (1.0, 1.3, 100.0))[-1]  # nothing is longer than a full one


def test_unknown_watts_leave_the_power_ratio_alone() -> None:
    residual = Residual()
    for watts in (nan, inf, -5.0, 0.0):
        residual.forget()
        _observe(residual, LOAD._replace(watts=watts))
        assert (residual.power_ratio, residual.power_error) == (1.0, None)
        assert residual.time_error is not None


# --- the controller with input that cannot be ---

GOOD = Observed(tbt_mean_ms=28.0, sm_mhz=1500, power_w=320.0, prompt_tokens_per_s=0.0, tbt_p99_ms=30.0)
HOSTILE = [
    {"observed": replace(GOOD, tbt_mean_ms=nan, tbt_p99_ms=nan)},
    {"observed": replace(GOOD, tbt_mean_ms=-3.0, tbt_p99_ms=-1.0)},
    {"observed": replace(GOOD, tbt_mean_ms=1e300, tbt_p99_ms=1e300)},
    {"observed": replace(GOOD, tbt_mean_ms=1e-310, tbt_p99_ms=1e-310)},
    {"observed": replace(GOOD, first_tokens=1e8, late_first_tokens=0.0, answers=1e8, long_answers=0.0)},
    {"observed": replace(GOOD, first_tokens=1e8, late_first_tokens=1e8, answers=1e8, long_answers=1e8)},
    {"observed": replace(GOOD, prompt_tokens_per_s=inf)},
    {"observed": replace(GOOD, prompt_tokens_per_s=-1e9)},
    {"observed": replace(GOOD, prompt_tokens_per_s=nan)},
    {"observed": replace(GOOD, sm_mhz=-7, power_w=nan)},
    {"observed": replace(GOOD, sm_mhz=10**12, power_w=1e300)},
    *({"observed": replace(GOOD, limit_w=limit_w)} for limit_w in (nan, -5.0, 0.0, 1e-9, inf, 1e300)),
    {"state": replace(STATE, running=10**9)},
    {"state": replace(STATE, kv_tokens=10**11, waiting_tokens=10**11)},
    {"bounds": replace(BOUNDS, min_mhz=-500)},
    {"bounds": replace(BOUNDS, max_mhz=10**9)},
    {"bounds": replace(BOUNDS, min_mhz=0, max_mhz=0)},
    {"throttle": -1},
    {"targets": replace(TARGETS, ttft_ms=1e300)},
]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("how", HOSTILE)
def test_nonsense_never_stops_the_controller_nor_leaves_a_trace(how: dict[str, object], known: bool) -> None:
    given = {"targets": TARGETS, "bounds": BOUNDS, "throttle": 0, "observed": GOOD}
    controller, now = LocalController(STACK if known else None), 100.0
    for _ in range(20):
        now += 0.5
        changed = {**given, **{name: value for name, value in how.items() if name != "state"}}
        decision = controller.step(now, how.get("state", STATE), **changed)  # type: ignore[arg-type]
        assert decision.sm_mhz is None or 345 <= decision.sm_mhz <= 1980
        assert decision.reason
    for _ in range(200):  # and afterwards it works as if nothing had been
        now += 0.5
        decision = controller.step(now, STATE, **given)  # type: ignore[arg-type]
    assert decision.sm_mhz is not None, decision.reason
    if not known:
        assert decision.sm_mhz >= 0.95 * 1980


def test_a_window_in_which_the_limit_moved_is_not_judged() -> None:
    controller, now = LocalController(STACK), 100.0
    judged = []
    for limit_w in (*(700.0,) * 60, *(300.0,) * 8, *(302.0,) * 8):
        now += 0.5
        observed = replace(GOOD, limit_w=limit_w)
        controller.step(now, STATE, targets=TARGETS, bounds=BOUNDS, throttle=0, observed=observed)
        judged.append(controller.health().time_error is not None)
    assert judged[59] and not any(judged[60:62]) and all(judged[66:])  # two watts are no move


@pytest.mark.parametrize("back_s", [0.4, 3600.0, 1e9])
def test_a_clock_that_goes_back_begins_anew_at_default_clocks(back_s: float) -> None:
    controller, now = LocalController(STACK), 1e9
    for _ in range(80):
        now += 0.5
        settled = controller.step(now, STATE, targets=TARGETS, bounds=BOUNDS, throttle=0, observed=None)
    assert settled.sm_mhz is not None
    now -= back_s
    assert controller.step(now, STATE, targets=TARGETS, bounds=BOUNDS, throttle=0, observed=None).sm_mhz is None
    for _ in range(80):
        now += 0.5
        again = controller.step(now, STATE, targets=TARGETS, bounds=BOUNDS, throttle=0, observed=None)
    assert again.sm_mhz == settled.sm_mhz


def test_days_of_silence_are_no_number_that_is_too_large() -> None:
    controller, now = LocalController(STACK), 0.0
    bounded_end_to_end = replace(TARGETS, e2e_ms=12_000.0)
    for span_s in (*[0.5] * 300, 2e6, *[0.5] * 3):
        now += span_s
        late = replace(GOOD, tbt_mean_ms=45.0)
        controller.step(now, STATE, targets=bounded_end_to_end, bounds=BOUNDS, throttle=0, observed=late)
    assert 0.0 < (controller.health().wait_price_w or 0.0) < inf


def test_targets_below_what_default_clocks_reach_are_said_and_default_is_kept() -> None:
    controller, now = LocalController(STACK), 0.0
    tight = Targets(tbt_ms=15.0, ttft_ms=1_500.0, e2e_ms=None)
    for _ in range(40):
        now += 0.5
        decision = controller.step(now, STATE, targets=tight, bounds=BOUNDS, throttle=0, observed=None)
        assert decision.sm_mhz is None
    assert decision.reason.endswith("over 15.0 ms even at 1980 MHz: default clocks")


def test_watching_learns_a_stack_without_deciding_anything() -> None:
    controller, now = LocalController(STACK), 0.0
    truth = 1.25
    for _ in range(200):
        now += 0.5
        gap = truth * iteration_s(PLANT, 1.0, 10.0, 12_000.0, 0.0)
        seen = replace(GOOD, tbt_mean_ms=gap * 1e3, tbt_p99_ms=gap * 1e3, sm_mhz=1980)
        controller.watch(now, STATE, bounds=BOUNDS, observed=seen)
    assert controller.decode_ratio == pytest.approx(truth, rel=0.02)
    assert controller.health().time_error == pytest.approx(0.0, abs=0.02)
    assert controller.health().power_ratio is not None


def _slowed(controller: LocalController, slower: float, steps: range, target_ms: float) -> list[float]:
    """Half seconds of an engine that takes `slower` times as long; the full chunk's milliseconds of each step."""
    took: list[float] = []
    lock: int | None = None
    for step in steps:
        x = (lock or 1980) / 1980
        chunk = under_limit(PLANT, x, 20.0, 30_000.0, 492.0, 700.0)[1] * slower
        token = under_limit(PLANT, x, 20.0, 30_000.0, 0.0, 700.0)[1] * slower
        busy = min(0.95, 3_000.0 * chunk / 492.0)
        gap = 1.0 / (busy / chunk + (1.0 - busy) / token)
        seen = Observed(gap * 1e3, round(1980 * x), None, 3_000.0, chunk * 1e3)
        lock = controller.step(
            0.5 * step,
            EngineState(0.1, 20, 0, 0, 30_000),
            targets=Targets(target_ms, 4_000.0, None),
            bounds=BOUNDS,
            throttle=0,
            observed=seen if step % 2 == 0 else Observed(None, None, None, 3_000.0),
        ).sm_mhz
        took.append(chunk * 1e3)
    return took


@pytest.mark.parametrize("slower", [1.6, 1.95, 2.1, 2.2, 2.3, 2.37, 3.0])
def test_an_engine_slower_than_any_ratio_that_is_learned_gets_default_clocks_until_it_is_itself_again(
    slower: float,
) -> None:
    controller, target_ms = LocalController(STACK), 60.0 * max(slower, 2.0)
    _slowed(controller, 1.0, range(200), target_ms)
    took = _slowed(controller, slower, range(200, 600), target_ms)
    assert max(took[30:]) <= 1.05 * target_ms
    assert controller.recalibrating is (slower > 2.1)  # 5 % beyond the end of the ratio is still a prediction
    _slowed(controller, 1.0, range(600, 680), target_ms)
    assert not controller.recalibrating and controller.prefill_ratio == pytest.approx(1.0, abs=0.05)


def _fed(guard: MissGuard, at_s: float, hours: float, missed_share: float, totals: list[float]) -> tuple[float, int]:
    """Ten requests a minute with this share of them missed; the time after it, and minutes in which it held."""
    held = 0
    for _ in range(int(hours * 60)):
        at_s += 60.0
        totals[0] += 10.0
        totals[1] += 10.0 * missed_share
        held += guard.holds(at_s, *totals)
    return at_s, held


def test_a_rollback_that_follows_within_a_day_lasts_twice_as_long_and_a_good_day_is_forgiven() -> None:
    guard, at_s, totals, held = MissGuard(0.0), 0.0, [0.0, 0.0], []
    for _ in range(4):
        at_s, _ = _fed(guard, at_s, 0.2, 0.5, totals)
        began_s = at_s
        while guard.holds(at_s, *totals):
            at_s, _ = _fed(guard, at_s, 1 / 60, 0.0, totals)
        held.append((at_s - began_s) / 3600.0)
        at_s, none = _fed(guard, at_s, 1.5, 0.0, totals)
        assert none == 0 and guard.left_s(at_s) == 0.0
    assert held[0] == pytest.approx(1.0, abs=0.1)
    assert held[1:] == pytest.approx([2.0, 4.0, 8.0], abs=0.25)
    at_s, _ = _fed(guard, at_s, 25.0, 0.0, totals)
    at_s, _ = _fed(guard, at_s, 0.2, 0.5, totals)
    assert guard.left_s(at_s) == 0.0  # as if it were the first


def test_a_rollback_says_how_long_it_still_lasts() -> None:
    guard, totals = MissGuard(0.0), [0.0, 0.0]
    at_s, _ = _fed(guard, 0.0, 0.2, 0.5, totals)
    at_s, _ = _fed(guard, at_s, 1.5, 0.0, totals)
    at_s, held = _fed(guard, at_s, 0.2, 0.5, totals)
    assert held and 6_000.0 < guard.left_s(at_s) <= 7_200.0
