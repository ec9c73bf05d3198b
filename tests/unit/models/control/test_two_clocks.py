"""A window of which two clocks say different lengths: judged by what both agree on, and nothing is learned from it."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest

from models.control import memory as core
from models.control.controller import ClockBounds, EngineState, LocalController, Observed, Targets
from models.control.equations import iteration_s
from models.control.memory import Load
from models.control.predict import plant_of
from models.control.profiles import LLAMA_70B_H100X4 as STACK
from models.control.residual import Residual, doubtful, predict
from models.control.types import Window

PLANT = plant_of(STACK)
BOUNDS = ClockBounds(min_mhz=990, max_mhz=1980, default_mhz=1980, step_mhz=15)
STATE = EngineState(age_s=0.2, running=10, waiting=0, waiting_tokens=0, kv_tokens=12_000)
TARGETS = Targets(tbt_ms=60.0, ttft_ms=1_500.0, e2e_ms=None)
LOAD = Load(10.0, 0.0, 12_000.0, 2_000.0, nan, 200.0, 0.03, 0.02, 0.9, 350.0)
LONG_S, SHORT_S = 1.0, 0.3
BAD = LOAD._replace(prefilled=0.0)


def memory() -> list[float]:
    own = [0.0] * core.S_SIZE
    core.begin(own, PLANT, 1024.0)
    own[core.S_STARTED] = 1.0
    return own


def bounds_of(load: Load) -> tuple[float, float]:
    seen = predict(PLANT, memory(), load, LONG_S, SHORT_S)
    assert seen is not None and not seen.sure
    return seen.gap_s, seen.other_s


def observe(residual: Residual, load: Load, *spans: float) -> Residual:
    residual.forget()
    seen = predict(PLANT, memory(), load, *spans)
    assert seen is not None
    residual.observe(seen, load, settled=True)
    return residual


def test_between_the_two_predictions_nothing_is_known() -> None:
    low, high = bounds_of(LOAD)
    assert high > 1.3 * low
    residual = observe(Residual(), LOAD._replace(mean_s=(low * high) ** 0.5), LONG_S, SHORT_S)
    assert (residual.time_error, residual.power_error, residual.power_ratio) == (None, None, 1.0)


@pytest.mark.parametrize("spans", [(LONG_S, SHORT_S), (SHORT_S, LONG_S)])
def test_outside_of_both_predictions_the_nearer_one_counts(spans: tuple[float, float]) -> None:
    # The share of mixed iterations hangs on the gap itself, so both are taken at the gap that is judged.
    for mean_s in (0.5 * bounds_of(LOAD)[0], 4.0 * bounds_of(LOAD)[1]):
        load = LOAD._replace(mean_s=mean_s)
        one, other = (predict(PLANT, memory(), load, span) for span in spans)
        assert one is not None and other is not None
        nearer = min((mean_s / p.gap_s - 1.0 for p in (one, other)), key=abs)
        assert observe(Residual(), load, *spans).time_error == pytest.approx(nearer)


def test_an_unknown_window_neither_counts_nor_clears_and_a_late_tail_counts_all_the_same() -> None:
    seen = predict(PLANT, memory(), BAD, 0.5)
    assert seen is not None
    bad, (low, high) = BAD._replace(mean_s=1.3 * seen.gap_s), bounds_of(LOAD)
    unknown = LOAD._replace(mean_s=(low * high) ** 0.5)
    residual = Residual()
    for _ in range(2):
        assert not observe(residual, bad, 0.5).drifted
        assert not observe(residual, unknown, LONG_S, SHORT_S).drifted
    assert observe(residual, bad, 0.5).drifted
    late = unknown._replace(tail_s=1.3 * seen.full_s)
    residual = Residual()
    assert [observe(residual, late, LONG_S, SHORT_S).drifted for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("other_s", [0.001, 0.5, 60.0])
def test_pure_decoding_is_judged_by_any_clock(other_s: float) -> None:
    seen = predict(PLANT, memory(), BAD, 0.5, other_s)
    assert seen is not None and seen.sure
    assert observe(Residual(), BAD._replace(mean_s=1.3 * seen.gap_s), 0.5, other_s).time_error == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("window", "doubted"),
    [
        (None, False),
        (Window(500.0, 0.5, 0.55), False),
        (Window(500.0, 0.5, 0.2), True),
        (Window(500.0, 0.2, 0.5), True),
        (Window(500.0, None, 0.5), True),
        (Window(500.0, 0.5, None), False),
        (Window(0.0, 0.5, 0.01), False),
        (Window(500.0, 0.5, nan), False),
        (Window(500.0, 0.5, inf), False),
        (Window(500.0, 0.5, -1.0), False),
        (Window(nan, 0.5, 0.2), False),
    ],
)
def test_when_a_window_is_doubted(window: Window | None, doubted: bool) -> None:
    assert doubtful(window) is doubted


def shown(window: Window | None, *, mhz: int = 1980, slower: float = 1.0) -> Observed:
    """Pure decoding that took so much longer than the profile says, or a mean that only the stamps make wrong."""
    gap_s = slower * iteration_s(PLANT, mhz / 1980, 10.0, 12_000.0, 0.0)
    rate = 0.0 if window is None or not window.stamped_s else window.prompt_tokens / window.stamped_s
    return Observed(1e3 * gap_s, mhz, None, rate, 1e3 * gap_s, window=window)


def stepped(controller: LocalController, now_s: float, observed: Observed, state: EngineState = STATE) -> int | None:
    return controller.step(now_s, state, targets=TARGETS, bounds=BOUNDS, throttle=0, observed=observed).sm_mhz


def test_bunched_readings_teach_nothing_and_are_no_drift() -> None:
    """Twenty windows of half a second whose stamps are a hundredth apart: fifty times the prefill that there was."""
    controller, now_s, mhz = LocalController(STACK), 100.0, 1980
    for _ in range(40):
        now_s += 0.5
        mhz = stepped(controller, now_s, shown(None, mhz=mhz)) or 1980
    before = controller.decode_ratio, controller.prefill_ratio
    for _ in range(20):
        now_s += 0.5
        stepped(controller, now_s, shown(Window(1_100.0, 0.01, 5.0), mhz=mhz, slower=1.15))
        assert not controller.recalibrating
        assert controller.health().time_error is None or abs(controller.health().time_error or 0.0) < 0.18
    assert (controller.decode_ratio, controller.prefill_ratio) == before


@pytest.mark.parametrize("window", [None, Window(0.0, 0.01, 0.5), Window(0.0, None, 0.5), Window(0.0, 9.0, 0.5)])
def test_a_true_drift_in_bunched_readings_is_found_after_two_windows(window: Window | None) -> None:
    controller, now_s, mhz = LocalController(STACK), 100.0, 1980
    for _ in range(80):
        now_s += 0.5
        mhz = stepped(controller, now_s, shown(None, mhz=mhz)) or 1980
    assert mhz < 1980 and not controller.recalibrating
    for _ in range(2):
        now_s += 0.5
        stepped(controller, now_s, shown(window, mhz=mhz, slower=1.6))
    assert controller.recalibrating


def test_a_window_from_before_a_release_is_not_held_against_default_clocks() -> None:
    """A signal that grows stale again and again, as on a node short of time: what comes next ran at the lower clock."""
    controller, now_s, mhz = LocalController(STACK), 100.0, 1980
    for _ in range(80):
        now_s += 0.5
        mhz = stepped(controller, now_s, shown(None, mhz=mhz)) or 1980
    assert mhz < 1500
    full_s = iteration_s(PLANT, mhz / 1980, 10.0, 12_000.0, 502.0)
    assert full_s > 1.3 * iteration_s(PLANT, 1.0, 10.0, 12_000.0, 502.0)
    slow = Observed(1e3 * full_s, mhz, None, 502.0 / full_s, 1e3 * full_s)  # whole chunks, at the clock before
    controller._memory[core.S_X] = mhz / 1980
    now_s += 2.5
    assert stepped(controller, now_s, slow, replace(STATE, age_s=2.4)) is None
    before = controller.prefill_ratio
    for _ in range(2):  # the first begins before the release, the second before the clock has followed it
        now_s += 0.35
        stepped(controller, now_s, slow)
        assert controller.health().time_error is None and not controller.recalibrating
    assert controller.prefill_ratio == before
