"""Nodes that were first seen together spread over the interval, and each stays within a lease."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from models.policy.turns import turn_s


@given(st.text(min_size=1, max_size=12), st.floats(0, 1e7), st.floats(1, 60))
def test_the_next_envelope_comes_half_to_one_and_a_half_intervals_later(node: str, now: float, interval: float) -> None:
    gap = turn_s(node, now, interval) + interval - now
    assert 0.5 * interval - 1e-6 <= gap <= 1.5 * interval + 1e-6


def test_a_burst_spreads_and_keeps_its_places() -> None:
    due = {f"n{i:03d}": 100.0 for i in range(100)}
    for _ in range(3):
        due = {node: turn_s(node, at, 5.0) + 5.0 for node, at in due.items()}
    seconds = Counter(int(at % 5.0) for at in due.values())
    assert len(seconds) == 5 and max(seconds.values()) < 40
    again = {node: turn_s(node, at, 5.0) + 5.0 for node, at in due.items()}
    assert all(abs(again[node] - due[node] - 5.0) < 1e-6 for node in due)
