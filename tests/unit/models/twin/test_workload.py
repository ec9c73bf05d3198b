"""Request streams: what replay keeps of a trace, and which streams are refused."""

from __future__ import annotations

import numpy as np
import pytest

from models.twin.workload import Workload, replay
from tests.unit.models.twin.streams import stream

TRACE = (np.arange(2_000) * 0.5 + 1.7e9, np.arange(2_000) % 50 + 1, np.arange(2_000) % 7 + 1)


def test_replay_shifts_thins_and_loops_each_replica() -> None:
    work = replay(*TRACE, replicas=20, seed=3, thin=0.25)
    assert work.period_s == pytest.approx(1_000.0)
    share = np.bincount(work.replica, minlength=20) / 2_000
    assert share == pytest.approx(np.full(20, 0.25), abs=0.05)
    assert len({float(work.arrival_s[work.replica == r][0]) for r in range(20)}) == 20
    assert set(zip(work.prompt_tokens.tolist(), work.output_tokens.tolist(), strict=True)) <= {
        (row % 50 + 1, row % 7 + 1) for row in range(2_000)
    }


def test_replay_keeps_the_gaps_of_the_trace() -> None:
    work = replay(*TRACE, replicas=2, seed=3, thin=1.0)
    mine = work.arrival_s[work.replica == 1]
    assert np.diff(mine) == pytest.approx(np.full(1_999, 0.5))
    assert mine[0] + work.period_s - mine[-1] == pytest.approx(0.5)


def test_same_seed_gives_the_same_streams() -> None:
    one, two, other = (replay(*TRACE, replicas=3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.arrival_s, two.arrival_s)
    assert not np.array_equal(one.replica, other.replica) or not np.array_equal(one.arrival_s, other.arrival_s)


@pytest.mark.parametrize(
    ("thin", "rows", "words"), [(0.0, 10, "thin is 0"), (1.5, 10, "thin is 1.5"), (0.5, 1, "1 req")]
)
def test_replay_refuses_what_it_cannot_replay(thin: float, rows: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replay(*(column[:rows] for column in TRACE), replicas=1, seed=0, thin=thin)


def test_workload_refuses_unsorted_empty_and_late_requests() -> None:
    with pytest.raises(ValueError, match="sorted by replica"):
        stream([(2.0, 5, 5), (1.0, 5, 5)])
    with pytest.raises(ValueError, match="at least 1 prompt"):
        stream([(1.0, 5, 0)])
    with pytest.raises(ValueError, match=r"arrivals must lie in \[0, period_s = 2\)"):
        stream([(2.0, 5, 5)], period_s=2.0)
    ones = np.ones(2, dtype=np.int64)
    with pytest.raises(ValueError, match="lengths"):
        Workload(np.zeros(1), ones, ones, ones)
