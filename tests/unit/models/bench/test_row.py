"""A row under one breaker: the brake keeps the budget, touches low priority only, and classes stay apart."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

pytest.importorskip("numba")

from models.bench import state as st
from models.bench.compare import Comparison, Setup, truth_of
from models.bench.load import Curve, Lengths, Stream
from models.bench.local import STATIC, Local
from models.bench.plantparts import Node
from models.bench.row import even_limit_w, policies, result, row_budget_w, row_of
from models.bench.run import Case, Outcome, Policy, run
from models.control.memory import Tuning

PLANT = truth_of("mid")
ALWAYS = Policy("always on", Local(STATIC, 0.1, 0.0, 0.1, 0.0, 1.0, 1.0, 2.0, inf, Tuning()), "fixed")


def _burst() -> Stream:
    """Two quiet minutes, then more than eight replicas can take for three minutes, then quiet again."""
    rng = np.random.default_rng(4)
    parts = ((0.0, 120.0, 3.0), (120.0, 300.0, 70.0), (300.0, 600.0, 3.0))
    arrival = np.concatenate([rng.uniform(a, b, int(rate * (b - a))) for a, b, rate in parts])
    arrival.sort()
    count = len(arrival)
    return Stream(arrival, np.full(count, 2_000, np.int32), np.full(count, 20, np.int32), 600.0)


def _run(budget_w: float, low: int) -> Outcome:
    case = Case(_burst(), 8, PLANT, PLANT, budget_w=budget_w, low_replicas=low, low_share=low / 8)
    return run(case, ALWAYS)


def test_the_brake_keeps_the_budget_that_is_broken_without_it() -> None:
    budget = 0.93 * row_budget_w(8, PLANT, Node())
    free, braked = _run(budget, 0), _run(budget, 3)
    assert free.windows_over > 0 and free.peak_w > budget
    assert braked.windows_over == 0 and braked.peak_w <= budget
    assert 0.0 < braked.low_touched <= braked.low_requests and braked.braked_s > 0.0
    assert braked.total(st.H_REQUESTS) == free.total(st.H_REQUESTS) == len(_burst().arrival_s)


def test_nobody_is_touched_where_the_budget_is_far() -> None:
    found = _run(2.0 * row_budget_w(8, PLANT, Node()), 3)
    assert found.low_touched == found.braked_s == found.windows_over == 0
    assert found.low_requests == pytest.approx(len(_burst().arrival_s) * 3 / 8, abs=1.0)


def test_ceilings_of_equal_size_sum_to_the_budget() -> None:
    node, budget = Node(), row_budget_w(8, PLANT, Node())
    limit = even_limit_w(10, budget, PLANT, node)
    assert limit < PLANT.limit_w
    assert row_budget_w(10, PLANT._replace(limit_w=limit), node) == pytest.approx(budget)


def test_the_variant_under_ceilings_keeps_the_budget_where_default_clocks_break_it() -> None:
    """Its truth holds the ceiling and its controller knows it; the brake finds nothing to do."""
    lengths = Lengths(*(np.array(one) for one in ((0.0, 1.0), (1_000.0, 3_000.0), (0.0, 1.0), (10.0, 40.0))))
    curve = Curve(np.array([0.0, 900.0]), np.array([40.0, 40.0]), lengths, 0.1)
    compare = Comparison(Setup("made", curve=curve))
    days = 900.0 / 86_400.0
    row = row_of(compare, days)
    found = {name: (case, policy) for name, case, policy in policies(compare, row)}
    (label,) = (name for name in found if "balanced under ceilings" in name)
    case, policy = found[label]
    limit_w = case.truth.limit_w
    assert case.belief.limit_w == limit_w < row.more.truth.limit_w
    assert row_budget_w(case.replicas, case.truth, Node()) == pytest.approx(row.budget_w)
    bare, ours = (
        result(run(*found["30 % more, default clocks, no protection"]), row.budget_w, days),
        result(run(case, policy), row.budget_w, days),
    )
    assert bare["peak_wall_w"] > ours["peak_wall_w"] and ours["peak_wall_w"] <= row.budget_w
    assert ours["windows_over"] == 0 and ours["low_touched_ratio"] is not None
