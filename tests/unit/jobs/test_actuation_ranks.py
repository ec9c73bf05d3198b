"""The pace of ranks on several nodes: the slowest at its own default, and nothing where it is not known."""

from __future__ import annotations

import pytest

from streams.contract.records import EngineControl, EngineReading, Histogram
from streams.contract.training import workload_of
from streams.jobs.actuation_ranks import RankPaces


def rank(
    name: str, step_ms: float, wait_ms: float | None, *, slowed: float | None = None, job: str = "bert", steps: int = 2
) -> EngineReading:
    return EngineReading(
        engine=name, kind="training", stack="s", workload=workload_of(job) if job else "training", gpu_uuid=("GPU-a",),
        ts_ns=1, e2e=Histogram(index=(1,), count=(steps,), sum_ms=steps * step_ms),
        tbt=None if wait_ms is None else Histogram(index=(1,), count=(steps,), sum_ms=steps * wait_ms),
        control=EngineControl(state="chosen", slowdown_ratio=slowed),
    )  # fmt: skip


def told(paces: RankPaces, now_s: float, engine: EngineReading) -> float | None:
    return paces.target(now_s, engine).e2e_ms


def feed(paces: RankPaces, *ranks: EngineReading, begin: int = 0, seconds: int = 20) -> float:
    for now_s in range(begin, begin + seconds):
        for one in ranks:
            paces.add(float(now_s), one)
    return float(begin + seconds)


def test_the_slowest_rank_at_its_own_default_is_the_pace_of_all() -> None:
    paces, fast, slow = RankPaces(), rank("n1/a", 1250.0, 250.0), rank("n2/b", 1250.0, 0.0, slowed=0.04)
    now_s = feed(paces, fast, slow)
    assert told(paces, now_s, fast) == told(paces, now_s, slow) == pytest.approx(1250.0 / 1.04, abs=0.01)
    # The same readings once more change nothing, and ranks that are slowed are not each other's reason.
    both = [rank("n1/a", 1250.0, 0.0, slowed=0.25), rank("n2/b", 1250.0, 0.0, slowed=0.25)]
    for _ in range(2):
        now_s = feed(paces, *both, begin=int(now_s), seconds=70)
        assert told(paces, now_s, fast) == pytest.approx(1000.0, abs=0.01)


def test_a_straggler_that_leaves_takes_its_pace_along() -> None:
    paces, fast = RankPaces(), rank("n1/a", 1200.0, 200.0)
    now_s = feed(paces, fast, rank("n2/b", 1200.0, 0.0), seconds=60)
    now_s = feed(paces, fast, rank("n2/b", 1200.0, 200.0), begin=int(now_s), seconds=25)
    assert told(paces, now_s, fast) == pytest.approx(1000.0, abs=0.01)


@pytest.mark.parametrize(
    "other",
    [
        rank("n2/b", 1200.0, None),  # does not tell its waits
        rank("n2/b", 1200.0, 1300.0),  # waits longer than its step
        rank("n2/b", 1200.0, 0.0, job="other"),
        rank("n2/b", 1200.0, 0.0, job=""),
        rank("n2/b", 1200.0, 0.0, steps=0),
    ],
)
def test_what_tells_nothing_of_the_job_gives_no_pace(other: EngineReading) -> None:
    paces, fast = RankPaces(), rank("n1/a", 1200.0, 200.0)
    now_s = feed(paces, fast, other)
    assert told(paces, now_s, fast) is None and told(paces, now_s, other) is None


def test_a_rank_that_falls_silent_is_forgotten_and_a_short_run_is_not_known_yet() -> None:
    paces, fast, slow = RankPaces(), rank("n1/a", 1200.0, 200.0), rank("n2/b", 1200.0, 0.0)
    now_s = feed(paces, fast, slow, seconds=7)
    assert told(paces, now_s, fast) is None
    now_s = feed(paces, fast, slow, begin=7)
    assert told(paces, now_s, fast) == pytest.approx(1200.0)
    now_s = feed(paces, fast, begin=int(now_s), seconds=15)
    assert told(paces, now_s, fast) is None
