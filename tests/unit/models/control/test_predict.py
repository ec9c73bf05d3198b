"""Scalar predictions: monotone in the clock, and the profile table."""

from __future__ import annotations

import pytest

from models.control.predict import board_w, capped_clock, clock_factor, idle_w, iteration_s
from models.control.profiles import LLAMA_70B_H100X4 as STACK
from models.control.profiles import PROFILES, TWIN_STACK, profile_for

CLOCKS = [mhz / 1980 for mhz in range(345, 1981, 15)]


@pytest.mark.parametrize(("running", "kv", "prefill"), [(1, 500, 0), (30, 40_000, 482), (256, 400_000, 256)])
def test_lower_clock_is_slower_and_draws_less(running: int, kv: int, prefill: int) -> None:
    seconds = [iteration_s(STACK, x, running=running, kv_tokens=kv, prefill_tokens=prefill) for x in CLOCKS]
    watts = [
        board_w(STACK, x, running=running, kv_tokens=kv, prefill_tokens=prefill, t_s=t)
        for x, t in zip(CLOCKS, seconds, strict=True)
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert watts == sorted(watts)


def test_prefill_follows_the_clock_and_decode_does_not() -> None:
    prefill = [iteration_s(STACK, x, running=0, kv_tokens=0, prefill_tokens=512) for x in (0.5, 1.0)]
    decode = [iteration_s(STACK, x, running=8, kv_tokens=8_000, prefill_tokens=0) for x in (0.5, 1.0)]
    assert prefill[0] / prefill[1] == pytest.approx(2.0, rel=0.03)
    assert decode[0] / decode[1] < 1.3


def test_clock_factor_is_one_at_full_clock_and_linear_below_the_knee() -> None:
    device = STACK.device
    assert clock_factor(device, 1.0) == pytest.approx(1.0)
    assert clock_factor(device, 0.3) == pytest.approx(0.3 * 0.7**2)
    assert idle_w(device, 1.0) == pytest.approx(115.0)


def test_capped_clock_keeps_a_limit_that_can_be_kept() -> None:
    free = capped_clock(STACK, 0.9, running=20, kv_tokens=20_000, prefill_tokens=0, limit_w=700.0)
    held = capped_clock(STACK, 1.0, running=20, kv_tokens=20_000, prefill_tokens=492, limit_w=500.0)
    floor = capped_clock(STACK, 1.0, running=20, kv_tokens=20_000, prefill_tokens=492, limit_w=50.0)
    t_s = iteration_s(STACK, held, running=20, kv_tokens=20_000, prefill_tokens=492)
    assert free == 0.9
    assert board_w(STACK, held, running=20, kv_tokens=20_000, prefill_tokens=492, t_s=t_s) == pytest.approx(500, abs=1)
    assert floor == pytest.approx(345 / 1980)


def test_profiles_are_found_by_their_own_name_only() -> None:
    assert profile_for(TWIN_STACK) is STACK
    assert profile_for("llama-3.1-70b/fp8/vllm/h100x4") is None
    assert all(name == profile.name for name, profile in PROFILES.items())
