"""The serving engine on requests whose fate can be computed by hand, and its conservation laws."""

from __future__ import annotations

import numpy as np
import pytest

from models.control.predict import iteration_s
from models.control.profiles import LLAMA_70B_H100X4 as STACK
from models.twin.device import idle_w
from models.twin.engine import Clocks, Engine
from models.twin.histograms import SparseHist
from models.twin.workload import Workload
from streams.contract.histogram import bucket
from tests.unit.models.twin.streams import poisson, stream


def _engine(work: Workload, replicas: int = 1, *, x: float = 1.0, cap_w: float = 1e9) -> Engine:
    clocks = Clocks(x=np.full(replicas, x), cap_w=np.full(replicas, cap_w))
    return Engine(STACK, work, replicas=replicas, clocks=clocks)


def _prefill_s(tokens: float, kv: float = 0.0) -> float:
    return iteration_s(STACK, 1.0, running=0, kv_tokens=kv, prefill_tokens=tokens)


def _only(histogram: SparseHist) -> tuple[int, float]:
    assert len(histogram.index) == 1
    return histogram.count[0], histogram.sum_ms / histogram.count[0]


def test_one_request_gets_its_first_token_after_its_chunks_and_ends_after_its_output() -> None:
    engine = _engine(stream([(0.5, 700, 4)]))
    engine.run_to(5.0)
    first = _prefill_s(512) + _prefill_s(188, kv=512)
    gaps = [iteration_s(STACK, 1.0, running=1, kv_tokens=700 + k, prefill_tokens=0) for k in range(3)]
    assert _only(engine.ttft.take(0)) == (1, pytest.approx(first * 1e3, rel=1e-9))
    tbt = engine.tbt.take(0)
    assert sum(tbt.count) == 3
    assert tbt.sum_ms == pytest.approx(sum(gaps) * 1e3, rel=1e-9)
    assert _only(engine.e2e.take(0)) == (1, pytest.approx((first + sum(gaps)) * 1e3, rel=1e-9))
    assert engine.busy_s[0] == pytest.approx(first + sum(gaps))
    assert (engine.kv_tokens[0], engine.running[0], engine.finished[0]) == (0.0, 0.0, 1)


def test_histogram_bucket_is_the_contracts() -> None:
    engine = _engine(stream([(0.5, 700, 1)]))
    engine.run_to(5.0)
    taken = engine.ttft.take(0)
    assert taken.index == (bucket(taken.sum_ms),)
    assert engine.ttft.take(0) == SparseHist((), (), 0.0)


def test_request_of_one_token_ends_with_its_prefill() -> None:
    engine = _engine(stream([(0.0, 100, 1), (0.0, 50, 1)]))
    engine.run_to(1.0)
    assert engine.finished[0] == 2
    assert engine.generated_tokens[0] == 2
    assert engine.kv_tokens[0] == 0.0
    assert _only(engine.e2e.take(0))[1] == pytest.approx(_prefill_s(150) * 1e3)


def test_chunk_shares_the_iteration_with_running_sequences() -> None:
    engine = _engine(stream([(0.0, 100, 50), (0.1, 2_000, 2)]))
    engine.run_to(0.1)
    assert engine.running[0] == 1
    before = engine.prompt_tokens[0]
    engine.run_to(0.25)
    mixed = iteration_s(STACK, 1.0, running=1, kv_tokens=105, prefill_tokens=511)
    assert engine.prompt_tokens[0] - before in (511.0, 1_022.0, 1_533.0)
    tbt = engine.tbt.take(0)
    assert any(2 ** (i / 32) < mixed * 1e3 * 1.001 <= 2 ** ((i + 2) / 32) for i in tbt.index)


def test_waiting_counts_requests_until_their_last_chunk() -> None:
    engine = _engine(stream([(0.0, 5_000, 10), (0.0, 5_000, 10)]))
    engine.run_to(0.1)
    assert engine.queues.tail[0] - engine.queues.head[0] == 2
    assert engine.queues.tokens[0] == 10_000 - engine.prompt_tokens[0]
    assert engine.kv_tokens[0] == engine.prompt_tokens[0] > 0


def test_kv_limit_holds_back_admission() -> None:
    engine = _engine(stream([(0.0, 300_000, 5_000), (0.0, 300_000, 5_000)]))
    engine.run_to(120.0)
    assert engine.running[0] == 1
    assert engine.queues.admitted[0] == 1
    assert engine.kv_tokens[0] <= STACK.kv_limit_tokens


def test_sequence_limit_holds_back_admission() -> None:
    engine = _engine(stream([(0.0, 4, 1_000)] * 400))
    engine.run_to(5.0)
    assert engine.running[0] == STACK.max_sequences
    assert engine.queues.tail[0] - engine.queues.head[0] == 400 - STACK.max_sequences


def test_impossible_request_is_refused_with_its_size() -> None:
    with pytest.raises(ValueError, match="500000 tokens exceeds the KV limit of 400000"):
        _engine(stream([(0.0, 499_000, 1_000)]))


def test_workload_for_more_replicas_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="names replica 3, the cluster has 2"):
        _engine(stream([(0.0, 10, 10)], replica=3), replicas=2)


def test_idle_replica_draws_idle_power_at_its_clock_and_wakes_in_time() -> None:
    engine = _engine(stream([(2.0, 64, 1)]), x=0.5)
    engine.run_to(2.0 - 1e-9)
    assert not engine.busy[0]
    assert engine.energy_j[0] == pytest.approx(float(idle_w(STACK.device, np.array([0.5]))[0]) * 2.0, rel=1e-6)
    engine.run_to(2.0)
    assert engine.busy[0]


def test_stream_repeats_after_its_period() -> None:
    engine = _engine(stream([(0.5, 64, 3)], period_s=2.0))
    engine.run_to(7.0)
    assert engine.queues.tail[0] == 4
    assert engine.finished[0] == 4


def test_replica_without_requests_stays_idle() -> None:
    engine = _engine(stream([(0.0, 64, 3)], replica=1), replicas=3)
    engine.run_to(3.0)
    assert engine.finished.tolist() == [0, 1, 0]
    assert engine.busy_s[0] == engine.busy_s[2] == 0.0


def test_power_does_not_depend_on_how_time_is_cut() -> None:
    work = poisson(6, rate=2.0, seconds=20.0, seed=5)
    whole, parts = _engine(work, 6, cap_w=600.0), _engine(work, 6, cap_w=600.0)
    whole.run_to(20.0)
    for stop in np.sort(np.random.default_rng(1).uniform(0.0, 20.0, 97)):
        parts.run_to(float(stop))
    parts.run_to(20.0)
    assert parts.energy_j == pytest.approx(whole.energy_j, rel=1e-12)
    assert np.array_equal(parts.generated_tokens, whole.generated_tokens)


def test_lower_clock_makes_the_same_work_slower_and_cheaper() -> None:
    work = poisson(10, rate=1.0, seconds=30.0, seed=2)
    fast, slow = _engine(work, 10), _engine(work, 10, x=0.7)
    for engine in (fast, slow):
        engine.run_to(120.0)
    assert np.array_equal(fast.finished, slow.finished)
    assert np.all(slow.energy_j < fast.energy_j)
    assert sum(slow.e2e.take(r).sum_ms for r in range(10)) > sum(fast.e2e.take(r).sum_ms for r in range(10))
