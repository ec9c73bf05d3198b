"""Arithmetic of missing numbers against sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.node.spool_gaps import Gaps

ranges = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 10)), max_size=12)


@given(ranges, st.integers(0, 60))
def test_behaves_as_a_set(parts: list[tuple[int, int]], upto: int) -> None:
    gaps, model = Gaps(), set[int]()
    for first, length in parts:
        fresh = set(range(first, first + length)) - model
        assert gaps.add(first, first + length - 1) == len(fresh)
        model |= fresh
    gaps.forget(upto)
    model = {n for n in model if n > upto}
    assert gaps.within(1, 100) == len(model)
    assert sorted(n for a, b in gaps.ranges for n in range(a, b + 1)) == sorted(model)
