"""Histograms: edges, empty ones, and what an odd record may carry."""

from __future__ import annotations

import pytest

from streams.contract.histogram import bucket, pool, quantile
from streams.contract.records import Histogram


def test_buckets_are_two_percent_wide_and_closed_above() -> None:
    assert bucket(1.0) == -1
    assert bucket(2.0) == 31
    assert bucket(2.0001) == 32
    assert bucket(100.0 * 1.022) == bucket(100.0) + 1


def test_pool_adds_counts_and_skips_what_is_missing() -> None:
    one, two = Histogram(index=(1, 2), count=(3, 4)), Histogram(index=(2, 9), count=(1, 1))
    assert pool([one, None, two]) == {1: 3, 2: 5, 9: 1}


def test_scales_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="scale 5 and 4 cannot be pooled"):
        pool([Histogram(), Histogram(scale=4)])


def test_empty_histogram_has_no_quantile() -> None:
    assert quantile({}, 0.99) is None
    assert quantile({3: 0}, 0.0) is None


def test_a_bucket_with_no_count_is_no_division_by_zero() -> None:
    assert quantile({3: 0, 31: 5}, 0.0) == pytest.approx(2 ** (31 / 32))
    assert quantile({3: 0, 31: 5, 99: 0}, 1.0) == pytest.approx(2.0)


def test_an_index_beyond_a_double_is_no_overflow() -> None:
    assert quantile({2**62: 1}, 0.5) == 2.0**1023
    assert quantile({-(2**62): 1}, 0.5) == 0.0
