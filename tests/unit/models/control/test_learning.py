"""Two ratios that find a wrong model's error from means and tails, and stay inside their bounds."""

from __future__ import annotations

import pytest

from models.control.learning import RATIO_MAX, RATIO_MIN, Ratios


def test_both_ratios_are_found_from_windows_of_different_mix() -> None:
    ratios = Ratios()
    for window in range(600):
        share = 0.05 if window % 2 else 0.6
        measured = 1.2 * (1 - share) * 0.020 + 0.9 * share * 0.045
        ratios.learn_mean(measured, decode_s=0.020, mixed_s=0.045, mixed_share=share)
    assert ratios.decode == pytest.approx(1.2, abs=0.01)
    assert ratios.prefill == pytest.approx(0.9, abs=0.01)


def test_tail_raises_prefill_quickly_and_lowers_it_slowly() -> None:
    up, down = Ratios(), Ratios()
    for _ in range(10):
        up.learn_tail(0.055, mixed_s=0.050)
        down.learn_tail(0.045, mixed_s=0.050)
    assert up.prefill - 1.0 > 2.0 * (1.0 - down.prefill) > 0.0
    assert up.decode == 1.0


@pytest.mark.parametrize(("measured", "bound"), [(10.0, RATIO_MAX), (1e-9, RATIO_MIN)])
def test_ratios_stay_inside_their_bounds(measured: float, bound: float) -> None:
    ratios = Ratios()
    for _ in range(500):
        ratios.learn_mean(measured, decode_s=0.02, mixed_s=0.04, mixed_share=0.5)
        ratios.learn_tail(measured, mixed_s=0.04)
    assert ratios.prefill == bound
    assert RATIO_MIN <= ratios.decode <= RATIO_MAX
