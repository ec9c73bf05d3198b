"""Laws of the sparse histograms: buckets hold their values, pooling is addition, quantiles are ordered and near."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.contract.histogram import bucket, pool, quantile
from streams.contract.records import Histogram

VALUES = st.lists(st.floats(1e-3, 1e7), min_size=1, max_size=60)
SHARE = st.floats(0.0, 1.0)
WIDTH = 2 ** (1 / 32)
ONE_ULP = 1 + 1e-12
LAWS = settings(max_examples=200, deadline=None)


def counted(values: list[float], scale: int = 5) -> dict[int, int]:
    counts: dict[int, int] = {}
    for value in values:
        index = bucket(value, scale)
        counts[index] = counts.get(index, 0) + 1
    return counts


def histogram(values: list[float]) -> Histogram:
    counts = sorted(counted(values).items())
    return Histogram(index=tuple(i for i, _ in counts), count=tuple(c for _, c in counts), sum_ms=sum(values))


@given(value=st.floats(1e-6, 1e9), scale=st.integers(0, 8))
@LAWS
def test_a_value_lies_in_its_bucket(value: float, scale: int) -> None:
    index = bucket(value, scale)
    low, high = 2 ** (index / 2**scale), 2 ** ((index + 1) / 2**scale)
    assert low / ONE_ULP < value <= high * ONE_ULP


@given(first=st.floats(1e-6, 1e9), second=st.floats(1e-6, 1e9))
@LAWS
def test_buckets_keep_order(first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert bucket(low) <= bucket(high)


@given(one=VALUES, two=VALUES)
@LAWS
def test_pooling_is_counting_all_together(one: list[float], two: list[float]) -> None:
    together = pool([histogram(one), histogram(two)])
    assert together == counted(one + two) == pool([histogram(two), None, histogram(one)])
    assert sum(together.values()) == len(one) + len(two)


@given(values=VALUES, first=SHARE, second=SHARE)
@LAWS
def test_quantiles_rise_and_stay_inside(values: list[float], first: float, second: float) -> None:
    counts = counted(values)
    low, high = (quantile(counts, q) for q in sorted((first, second)))
    assert low is not None
    assert high is not None
    assert low <= high * ONE_ULP
    assert min(values) / WIDTH / ONE_ULP <= low
    assert high <= max(values) * WIDTH * ONE_ULP


@given(values=VALUES, q=st.floats(0.01, 1.0))
@LAWS
def test_a_quantile_is_one_bucket_from_the_true_order_statistic(values: list[float], q: float) -> None:
    found = quantile(counted(values), q)
    # The same rank as the histogram's, up to the rounding of q * n.
    near = {sorted(values)[max(0, min(len(values), math.ceil(q * len(values) + nudge)) - 1)] for nudge in (-1e-9, 1e-9)}
    assert found is not None
    assert any(true / WIDTH / ONE_ULP <= found <= true * WIDTH * ONE_ULP for true in near)


@given(counts=st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**53), max_size=6), q=SHARE)
@LAWS
def test_any_decodable_histogram_has_a_finite_quantile_or_none(counts: dict[int, int], q: float) -> None:
    found = quantile(counts, q)
    assert (found is None) == (sum(counts.values()) == 0)
    assert found is None or math.isfinite(found)
