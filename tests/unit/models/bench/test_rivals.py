"""The rivals: every one has a source and a grid, and what tuning chose lies in it."""

from __future__ import annotations

import pytest

pytest.importorskip("numba")

from models.bench.follow import Fit, Follow
from models.bench.protocol import Reference
from models.bench.rivals import CHOSEN, grid, matched, rivals, tune
from models.bench.run import Policy

BASE = Reference(0.6, 0.043, 6.0, 0.02)


def test_every_rival_has_a_source_and_every_choice_lies_in_its_grid() -> None:
    known = grid()
    assert all(policy.source and policy.name == name for name, tried in known.items() for policy in tried)
    for workload, chosen in CHOSEN.items():
        assert chosen.keys() == known.keys(), workload
        assert all(0 <= k < len(known[name]) for name, k in chosen.items())
    assert [p.name for p in rivals("a recording of one's own")] == list(known)


def test_tuning_takes_the_least_energy_inside_the_slo_and_the_least_harm_where_none_is() -> None:
    tried = grid()

    def judge(policy: Policy) -> tuple[int, float, float]:
        if policy.name == "pid":
            return 3, 0.1 + policy.local.a * 1e-4, 1.0
        return (0 if policy.share <= 0.8 else 1), 0.0, 100.0 - policy.share

    found = tune(judge)
    assert tried["forecast scaling"][found["forecast scaling"]].share == 0.8
    assert tried["pid"][found["pid"]].local.a == min(p.local.a for p in tried["pid"])


def test_ours_beside_a_rival_takes_that_rivals_percentiles_but_never_more_than_the_slo() -> None:
    its = Reference(0.9, 0.06, 8.0, 0.03)
    ours = matched("x", BASE, its)
    assert ours.local.tbt_s == pytest.approx(0.06) and ours.local.late_s == pytest.approx(0.9, rel=0.01)
    assert ours.local.long_s <= 8.0  # no later than it; counted first tokens settle below their target
    wild = matched("y", BASE, Reference(20.0, 0.5, 90.0, 0.2))
    assert wild.local.tbt_s < 0.1 and wild.local.ttft_s < 2.0


def test_the_bounds_beside_a_rival_follow_the_load_as_the_rivals_own_percentiles_did() -> None:
    flat, steep = Fit(1.0, 0.0, 1.0), Fit(0.5, 0.01, 1.0)
    base, its = BASE, Reference(0.9, 0.06, 8.0, 0.03, follow=Follow(flat, steep))
    assert matched("x", base, its).follow == its.follow
    assert matched("x", base, Reference(0.9, 0.06, 8.0, 0.03)).follow is None  # a recording without tuning days
