"""The local controller under arbitrary inputs: always inside its bounds, always back at default when it must be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from models.control.controller import ClockBounds, EngineState, LocalController, Observed, Targets
from models.control.profiles import LLAMA_70B_H100X4
from models.control.release import HEAT_OR_BRAKE, STALE_S

anything = st.floats(allow_nan=True, allow_infinity=True)
ages = st.floats(-1.0, 4.0) | st.just(float("nan"))
counts = st.none() | st.integers(0, 256)
states = st.none() | st.builds(
    EngineState,
    age_s=ages,
    running=counts,
    waiting=counts,
    waiting_tokens=st.none() | st.integers(0, 40_000),
    kv_tokens=st.none() | st.integers(0, 400_000),
)
latencies = st.none() | st.floats(1.0, 5_000.0) | anything
targets = st.builds(Targets, tbt_ms=latencies, ttft_ms=latencies, e2e_ms=latencies)
bounds = st.builds(
    ClockBounds,
    min_mhz=st.integers(1, 2_200),
    max_mhz=st.integers(1, 2_200),
    default_mhz=st.just(1_980),
    step_mhz=st.sampled_from([1, 7, 15]),
)
throttles = st.sampled_from([0, 0, 0, 0x1, 0x4, 0x8, 0x20, 0x40, 0x80, 0x84])
observations = st.none() | st.builds(
    Observed,
    tbt_mean_ms=st.none() | anything,
    sm_mhz=st.none() | st.integers(0, 2_500),
    power_w=st.none() | anything,
    prompt_tokens_per_s=st.none() | st.floats(0.0, 20_000.0),
    tbt_p99_ms=st.none() | anything,
)
inputs = st.tuples(st.floats(0.0, 1.5), states, targets, bounds, throttles, observations)


def _must_release(state: EngineState | None, goal: Targets, throttle: int) -> bool:
    return (
        state is None
        or not -STALE_S <= state.age_s <= STALE_S
        or state.running is None
        or state.waiting_tokens is None
        or state.kv_tokens is None
        or (goal.tbt_ms is None and goal.ttft_ms is None and goal.e2e_ms is None)
        or bool(throttle & HEAT_OR_BRAKE)
    )


@given(st.booleans(), st.lists(inputs, min_size=1, max_size=25))
@settings(max_examples=150, deadline=None)
def test_always_inside_the_bounds_and_always_a_reason(known: bool, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    controller = LocalController(LLAMA_70B_H100X4 if known else None)
    now = 0.0
    for dt, state, goal, bound, throttle, observed in steps:
        now += dt
        decision = controller.step(now, state, targets=goal, bounds=bound, throttle=throttle, observed=observed)
        assert decision.reason
        if decision.sm_mhz is not None:
            assert bound.min_mhz <= decision.sm_mhz <= bound.max_mhz
            assert decision.sm_mhz <= bound.default_mhz
            assert known or decision.sm_mhz >= 0.95 * bound.default_mhz
            assert not _must_release(state, goal, throttle)


@given(st.integers(0, 60), st.integers(0, 3_000), st.floats(30.0, 200.0), st.floats(0.0, 1.0), st.integers(345, 1_900))
@settings(max_examples=60, deadline=None)
def test_one_step_down_is_small_and_never_sooner_than_a_second(
    running: int, waiting: int, tbt_ms: float, jitter: float, floor: int
) -> None:
    controller = LocalController(LLAMA_70B_H100X4)
    state = EngineState(0.1, running, 1, waiting, running * 1_200)
    bound = ClockBounds(floor, 1_980, 1_980, 15)
    now, last, changed = 0.0, 1_980, float("-inf")
    for _ in range(40):
        now += 0.25 + jitter * 0.5
        decision = controller.step(
            now, state, targets=Targets(tbt_ms, 2_000.0, None), bounds=bound, throttle=0, observed=None
        )
        mhz = decision.sm_mhz or 1_980
        if mhz < last:
            assert last - mhz <= 60
            assert now - changed >= 1.0
        if mhz != last:
            changed = now
        last = mhz
