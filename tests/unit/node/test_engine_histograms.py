"""Cumulative histograms into deltas: placement, its error bound, first readings, resets, nonsense."""

from __future__ import annotations

import math
import random

import pytest

from agents.node.sources.engines.cumulative import Cumulative, cumulative, delta
from streams.contract.histogram import pool, quantile

EDGES_MS = (10.0, 25.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 400.0, 500.0, 750.0, 1000.0, 2500.0)
GRID = 2 ** (1 / 32)


def counted(values: list[float], edges: tuple[float, ...] = EDGES_MS) -> Cumulative:
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[next((n for n, edge in enumerate(edges) if value <= edge), len(edges))] += 1
    return Cumulative(edges, tuple(counts), sum(values))


def p(q: float, values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


@pytest.mark.parametrize("seed", range(12))
def test_p99_is_never_told_too_low_nor_above_the_edge_of_its_bucket(seed: int) -> None:
    chance = random.Random(seed)
    values = [min(chance.lognormvariate(math.log(40), 0.8), 2400.0) for _ in range(chance.randint(1, 3000))]
    found = delta(counted([]), counted(values))
    assert found is not None
    told, true = quantile(pool([found]), 0.99, found.scale), p(0.99, values)
    edge = next(edge for edge in EDGES_MS if true <= edge)
    assert told is not None
    assert true / GRID <= told <= edge * GRID


@pytest.mark.parametrize("seed", range(6))
def test_other_quantiles_stay_within_their_bucket_and_means_are_exact(seed: int) -> None:
    chance = random.Random(100 + seed)
    values = [min(chance.lognormvariate(math.log(40), 0.8), 2400.0) for _ in range(2000)]
    found = delta(counted([]), counted(values))
    assert found is not None
    assert sum(found.count) == 2000
    assert found.sum_ms == pytest.approx(sum(values), rel=1e-6)
    for q in (0.1, 0.5, 0.9):
        told, true = quantile(pool([found]), q, found.scale), p(q, values)
        number = next(n for n, edge in enumerate(EDGES_MS) if true <= edge)
        low = EDGES_MS[number - 1] if number else EDGES_MS[0] / 16
        assert told is not None
        assert low / GRID <= told <= EDGES_MS[number] * GRID


def test_the_first_reading_gives_nothing_and_the_next_what_came_since() -> None:
    first, second = counted([20.0] * 1000), counted([20.0] * 1000 + [60.0] * 3)
    assert delta(None, first) is None
    found = delta(first, second)
    assert found is not None
    assert (sum(found.count), found.sum_ms) == (3, 180.0)
    assert quantile(pool([found]), 0.5) == pytest.approx(75, rel=0.03)


def test_nothing_new_is_an_empty_histogram_not_an_unknown_one() -> None:
    same = counted([20.0, 30.0])
    found = delta(same, same)
    assert found is not None
    assert (found.index, found.count, found.sum_ms) == ((), (), 0.0)


def test_after_a_restart_the_new_counts_are_what_came_since() -> None:
    found = delta(counted([20.0] * 500), counted([60.0] * 2))
    assert found is not None
    assert (sum(found.count), found.sum_ms) == (2, 120.0)


def test_other_buckets_are_a_restart_too() -> None:
    found = delta(counted([20.0] * 5), counted([20.0] * 7, (30.0, 60.0)))
    assert found is not None
    assert sum(found.count) == 7


def test_other_buckets_with_counts_that_only_rose_are_a_restart_too() -> None:
    found = delta(Cumulative((10.0, 20.0), (1, 1, 0), 20.0), Cumulative((15.0, 20.0), (2, 2, 0), 60.0))
    assert found is not None
    assert (sum(found.count), found.sum_ms) == (4, 60.0)


def test_a_sum_that_fell_is_a_restart_even_where_counts_rose() -> None:
    found = delta(Cumulative((10.0,), (2, 2), 900.0), Cumulative((10.0,), (3, 2), 40.0))
    assert found is not None
    assert (sum(found.count), found.sum_ms) == (5, 40.0)


def test_above_the_last_edge_the_sum_tells_where() -> None:
    found = delta(Cumulative((100.0,), (0, 0), 0.0), Cumulative((100.0,), (0, 4), 2000.0))
    assert found is not None
    assert quantile(pool([found]), 0.5) == pytest.approx(500, rel=0.03)
    blind = delta(Cumulative((100.0,), (0, 0)), Cumulative((100.0,), (0, 4)))
    assert blind is not None
    assert quantile(pool([blind]), 0.5) == pytest.approx(200, rel=0.03)


def test_an_edge_reads_as_itself_and_not_two_per_cent_above() -> None:
    found = delta(counted([]), counted([50.0] * 100))
    assert found is not None
    assert quantile(pool([found]), 0.99) == pytest.approx(50.0, rel=0.012)


@pytest.mark.parametrize(
    "buckets",
    [
        {},
        {math.inf: 5.0},
        {0.1: 5.0, 0.2: 3.0, math.inf: 5.0},
        {0.1: -1.0, math.inf: 5.0},
        {0.1: math.nan, math.inf: 5.0},
        {0.1: 1.0, math.inf: 2.0**60},
        {float(n): 1.0 for n in range(1, 600)},
    ],
    ids=["empty", "no finite edge", "falling", "negative", "not a number", "absurd", "too many"],
)
def test_what_is_no_histogram_is_unknown(buckets: dict[float, float]) -> None:
    assert cumulative(buckets, count=None, total=1.0, factor=1e3) is None


def test_without_an_infinite_bucket_the_count_closes_it() -> None:
    found = cumulative({0.01: 0.0, 0.05: 12.0}, count=150.0, total=8.75, factor=1e3)
    assert found == Cumulative((10.0, 50.0), (0, 12, 138), 8750.0)
