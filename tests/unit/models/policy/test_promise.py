"""Where the search for a limit looks first: what other jobs say, what this one has shown; never what is believed."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest

from models.control.curve import Belief, Seen
from models.control.promise import DOWNWARDS, Prior, Shown, Stakes, learn, promise
from models.control.training import Rules, search
from models.control.trials import Candidate, Noise, reach_sigma
from models.policy.trial_run import SweepTable, replay

STAKES = Stakes(limit=log(1.05), best=0.0, pairs=7, pair_error=0.012, sure=3.0)


def _table(slope: float, bend: float, *, static: float = 0.3) -> SweepTable:
    settings = [150.0, 175.0, 200.0, 225.0, 250.0, 275.0, 300.0]
    away = [log(300.0 / one) for one in settings]
    times = [exp(slope * u + bend * u * u) for u in away]
    energies = [time * (static + (1.0 - static) * one / 300.0) for time, one in zip(times, settings, strict=True)]
    return SweepTable(settings, times, energies, 300.0)


def test_measurements_draw_the_belief_to_them_and_leave_less_doubt() -> None:
    seen = [Seen(0.2, 0.08, 1e-6), Seen(0.4, 0.16, 1e-6)]
    before, after = DOWNWARDS.slower.at(0.3), DOWNWARDS.slower.given(seen).at(0.3)
    assert after[1] < before[1] / 3 and after[0] == pytest.approx(0.12, abs=0.01)
    assert DOWNWARDS.slower.given(seen).at(0.3, Seen(0.3, 0.20, 1e-9))[0] == pytest.approx(0.20, abs=1e-3)


def test_what_is_learned_is_what_the_jobs_have_in_common() -> None:
    found = learn([_table(slope, 0.2) for slope in (0.0, 0.1, 0.2, 0.3, 0.4)])
    assert found.slower.mean == pytest.approx((0.2, 0.2), abs=1e-6)
    assert found.slower.covariance[0] == pytest.approx(0.02, rel=1e-3)
    assert learn([_table(0.1, 0.2)] * 3) is DOWNWARDS  # too few to say


def test_a_setting_surely_too_slow_promises_nothing_and_a_sure_one_most() -> None:
    unseen = promise(DOWNWARDS, Shown(0.3, 0, 0.0, 0.0), [], STAKES)
    slow = promise(DOWNWARDS, Shown(0.3, 4, 0.12, -0.1), [], STAKES)
    good = promise(DOWNWARDS, Shown(0.3, 4, 0.005, -0.15), [], STAKES)
    assert slow < 1e-4 < unseen < good
    better_known = promise(DOWNWARDS, Shown(0.3, 4, 0.005, -0.15), [], replace(STAKES, best=-0.3))
    assert better_known < good / 10


def test_a_slow_neighbour_lowers_the_promise_of_one_farther_out() -> None:
    alone = promise(DOWNWARDS, Shown(0.5, 0, 0.0, 0.0), [], STAKES)
    warned = promise(DOWNWARDS, Shown(0.5, 0, 0.0, 0.0), [Shown(0.3, 4, 0.09, -0.1)], STAKES)
    assert warned < alone / 3


def test_a_prior_that_is_all_wrong_costs_saving_never_time() -> None:
    """Belief without doubt that nothing slows: only the job's own blocks decide."""
    sure = Belief((0.0, 0.0), (1e-6, 0.0, 1e-6), 0.001)
    wrong = Rules(prior=Prior(sure, Belief((-1.0, 0.0), (1e-6, 0.0, 1e-6), 0.001)))
    for slope in (0.3, 0.6, 1.0):
        for seed in range(6):
            found = replay(_table(slope, 0.3), bound=0.05, run_steps=20_000, seed=seed, rules=wrong)
            assert found.slowdown <= 0.05


def test_one_pair_is_never_enough_and_each_look_asks_for_more() -> None:
    rules = Rules()
    noise = Noise(rules, blocks=[0.002, 0.002], counted=14)
    one = Candidate(250.0, noise, slower=[-0.2], dearer=[-0.2])
    assert one.verdict(0.05) == "open"
    one.slower.append(-0.2)
    assert one.verdict(0.05) == "feasible"
    assert reach_sigma(rules, 1) == rules.sure < reach_sigma(rules, 10) < reach_sigma(rules, 100) < 4.0


def test_settings_that_are_no_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="a setting of 0 cannot be searched; give limits, clocks or sizes above 0"):
        next(search([0, 300], reference=300, bound=0.05, run_steps=1000))


def test_many_sizes_on_both_sides_are_no_curve() -> None:
    """Eleven batch sizes around the reference: smaller ones are faster and dearer, larger ones slower."""
    sizes = [32.0, 64.0, 96.0, 128.0, 160.0, 192.0, 224.0, 256.0, 320.0, 384.0, 448.0]
    table = SweepTable(sizes, [(one / 192) ** 0.8 for one in sizes], [(192 / one) ** 0.3 for one in sizes], 192.0)
    for seed in range(3):
        found = replay(table, bound=0.05, run_steps=100_000, seed=seed)
        assert found.slowdown <= 0.05 and found.saving >= 0.0
