"""How densely a pool is packed: what a slack that dips, lasts and comes back does to it."""

from __future__ import annotations

from math import exp

import pytest

from models.policy.density import LOOSEST, PACK_S, Density


def test_a_slack_that_dips_and_comes_back_costs_no_replicas() -> None:
    """A tenth for ten minutes and nine tenths for ten, again and again: clocks meet the dips, and nothing is given."""
    density = Density(0.8)
    for minute in range(360):
        density.learn(60.0 * minute, 60.0, 0.1 if minute % 20 < 10 else 0.9)
    assert density.of(0.9) == pytest.approx(0.8, rel=0.1)


def test_a_packing_comes_back_at_its_own_pace_however_long_the_slack_was_low() -> None:
    density = Density(0.8)
    for minute in range(180):
        density.learn(60.0 * minute, 60.0, 0.1)
    assert density.of(0.1) == LOOSEST
    for minute in range(10):
        density.learn(10_800.0 + 60.0 * minute, 60.0, 0.9)
    assert density.of(0.9) == pytest.approx(LOOSEST * exp(600.0 / PACK_S))
