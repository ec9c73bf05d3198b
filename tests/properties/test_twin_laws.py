"""Laws of the twin that hold for any load and any actuation: nothing is made, nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.twin.cluster import TwinCluster
from models.twin.params import TwinParams
from models.twin.workload import Workload

REPLICAS = 3


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Streams of some or no requests, short and long, one at a time or all at once, looping or not."""
    counts = draw(st.lists(st.integers(0, 30), min_size=REPLICAS, max_size=REPLICAS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    replica = np.repeat(np.arange(REPLICAS), counts)
    arrival = rng.uniform(0.0, draw(st.sampled_from([0.01, 2.0, 8.0])), len(replica))
    order = np.lexsort((arrival, replica))
    longest = draw(st.sampled_from([2, 600, 5_000]))
    return Workload(
        arrival_s=arrival[order],
        prompt_tokens=rng.integers(1, longest, len(replica), endpoint=True),
        output_tokens=rng.integers(1, max(2, longest // 4), len(replica), endpoint=True),
        replica=replica,
        period_s=draw(st.sampled_from([8.5, float("inf")])),
    )


steps = st.lists(
    st.tuples(st.sampled_from([0.01, 0.13, 0.5, 1.0]), st.integers(0, 2_500), st.floats(150.0, 800.0)),
    min_size=1,
    max_size=12,
)


def _run(work: Workload, plan: list[tuple[float, int, float]]) -> TwinCluster:
    twin = TwinCluster(replicas=REPLICAS, workload=work, params=TwinParams(), seed=1)
    for dt_s, lock, limit in plan:
        twin.advance(dt_s, sm_lock_mhz=np.full(twin.gpus, float(lock)), limit_w=np.full(twin.gpus, limit))
    return twin


@given(workloads(), steps)
@settings(max_examples=40, deadline=None)
def test_requests_and_tokens_are_conserved(work: Workload, plan: list[tuple[float, int, float]]) -> None:
    twin = _run(work, plan)
    engine = twin.engine
    assert np.array_equal(twin.arrived_total, twin.requests_total + twin.running + twin.waiting)
    for row in range(REPLICAS):
        numbers = np.arange(engine.queues.tail[row])
        arrived = engine.queues.tokens_of(np.full(len(numbers), row), numbers)[0].sum() if len(numbers) else 0.0
        assert arrived == engine.prompt_tokens[row] + engine.queues.tokens[row]
    assert np.all(engine.kv_tokens >= 0) and np.all(
        engine.kv_tokens <= twin.engine.prompt_tokens + engine.generated_tokens
    )
    assert np.all(twin.running <= 256)


@given(workloads(), steps)
@settings(max_examples=25, deadline=None)
def test_histograms_count_every_event_once(work: Workload, plan: list[tuple[float, int, float]]) -> None:
    twin = _run(work, plan)
    for row in range(REPLICAS):
        ttft, tbt, e2e = twin.take_histograms(row)
        assert sum(ttft.count) == twin.engine.queues.head[row]
        assert sum(e2e.count) == twin.requests_total[row]
        assert sum(ttft.count) + sum(tbt.count) == twin.generation_tokens_total[row]


@given(workloads(), steps)
@settings(max_examples=25, deadline=None)
def test_energy_of_the_boards_is_that_of_the_engines(work: Workload, plan: list[tuple[float, int, float]]) -> None:
    twin = TwinCluster(replicas=REPLICAS, workload=work, params=TwinParams(), seed=1)
    factor = twin.true_power_w / np.repeat(twin.engine.power_w, 4)
    last = twin.energy_mj
    for dt_s, lock, limit in plan:
        twin.advance(dt_s, sm_lock_mhz=np.full(twin.gpus, float(lock)), limit_w=np.full(twin.gpus, limit))
        assert np.all(twin.energy_mj >= last)
        last = twin.energy_mj
    assert last == pytest.approx(np.repeat(twin.engine.energy_j, 4) * factor * 1e3, rel=1e-12)


@given(workloads())
@settings(max_examples=10, deadline=None)
def test_energy_counter_is_the_sum_of_true_power_times_time(work: Workload) -> None:
    """Sampled finely, the true power integrates to the counter; what is left is what changed inside a sample."""
    twin = TwinCluster(replicas=REPLICAS, workload=work, params=TwinParams(), seed=1)
    total = np.zeros(twin.gpus)
    for _ in range(1_000):
        before = twin.true_power_w
        twin.advance(0.002, sm_lock_mhz=np.zeros(twin.gpus), limit_w=np.full(twin.gpus, 700.0))
        total += 0.5 * (before + twin.true_power_w) * 0.002
    assert total == pytest.approx(twin.energy_mj / 1e3, rel=0.06)
