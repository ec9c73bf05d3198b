"""The compiled twin against the other two forms of the same equations, and the laws that a cluster keeps."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from models.bench import kernel
from models.bench import state as st
from models.bench.compiled import compiled
from models.bench.local import LEVELS, LOADS, OURS, STATIC, Local
from models.bench.plantparts import Node
from models.bench.run import quantile
from models.control import equations
from models.control.memory import S_SIZE, Tuning, begin
from models.control.predict import plant_of
from models.control.profiles import LLAMA_70B_H100X4 as STACK
from models.twin.engine import Clocks, Engine
from models.twin.workload import Workload

PLANT = plant_of(STACK)
INF = float("inf")


def _stream(rate: float, seconds: float, seed: int = 5) -> tuple[st.F8, st.I4, st.I4]:
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.random(rng.poisson(rate * seconds)) * seconds)
    prompt = rng.integers(1, 6_000, len(arrival)).astype(np.int32)
    output = rng.integers(1, 300, len(arrival)).astype(np.int32)
    return arrival, prompt, output


def _static(x: float = 1.0) -> Local:
    return Local(STATIC, 1e9, 0.0, 0.1, 0.0, x, INF, INF, INF, Tuning())


def _sim(stream: tuple[st.F8, st.I4, st.I4], replicas: int = 1, x: float = 1.0) -> st.Sim:
    sim = st.new_sim(
        stream, replicas=replicas, active=replicas, hours=1, ctl=S_SIZE, arms=2 * LEVELS * LOADS, plant=PLANT
    )
    sim.x[:] = x
    for row in sim.ctl:
        begin(row, PLANT, 4000.0)
    sim.clock[st.C_NEXT_TICK] = 1e9
    return sim


@pytest.mark.parametrize("chunk", [448.0, 300.7, 411.3, 187.9])
def test_no_request_is_stranded_whatever_the_chunk(chunk: float) -> None:
    """A chunk with a fraction once left a remainder of a prompt that was only taken up when the next one came."""
    stream = _stream(2.0, 60.0)
    sim = _sim(stream)
    sim.chunk[:] = chunk
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 400.0)
    assert sim.hours[:, st.H_REQUESTS].sum() == len(stream[0])
    assert sim.running.sum() == sim.waiting.sum() == 0 and sim.kv.sum() == sim.reserved.sum() == sim.queued.sum() == 0.0


def _bits(sim: st.Sim) -> tuple[float, ...]:
    return (sim.energy.sum(), sim.hist[0].sum(), sim.hist[1].sum(), sim.hist[2].sum(), sim.hours[0, st.H_GPU_J])


@pytest.mark.parametrize("x", [1.0, 0.7])
def test_one_replica_is_the_same_engine_as_the_vectorised_twin(x: float) -> None:
    """Requests, energy, busy time and latencies; the sums differ by the order of floats only."""
    stream = _stream(2.0, 120.0)
    sim = _sim(stream, x=x)
    compiled().advance(sim, PLANT, PLANT, Node(), _static(x), 200.0)
    prompt, output = (column.astype(np.int64) for column in stream[1:])
    work = Workload(stream[0], prompt, output, np.zeros(len(prompt), np.int64))
    engine = Engine(STACK, work, replicas=1, clocks=Clocks(np.array([x]), np.array([700.0])))
    engine.run_to(200.0)
    assert sim.hours[0, st.H_REQUESTS] == engine.finished[0] == len(stream[0])
    assert sim.energy[0] == pytest.approx(engine.energy_j[0], rel=2e-5)
    assert sim.hours[0, st.H_BUSY_S] == pytest.approx(engine.busy_s[0], rel=2e-5)
    twin = engine.tbt.take(0)
    assert sim.hist[1].sum() == sum(twin.count)
    mean_ms = twin.sum_ms / sum(twin.count)
    width = np.exp((np.arange(st.BINS) + 0.5) * st.BIN_WIDTH)
    assert float((sim.hist[1][0] * width).sum() / sim.hist[1].sum()) == pytest.approx(mean_ms, rel=0.005)


def test_compiled_and_plain_python_are_one_source() -> None:
    stream = _stream(3.0, 30.0)
    how = Local(OURS, 0.5, 0.1, 0.1, 0.0, 0.6, 0.06, 1.0, 0.03, Tuning(chunk_min=192.0, chunk_max=512.0))
    plain, fast = _sim(stream, 2), _sim(stream, 2)
    for sim, machine in ((plain, kernel), (fast, compiled())):
        sim.clock[st.C_NEXT_TICK] = 0.5
        machine.advance(sim, PLANT, PLANT, Node(), how, 60.0)
    assert _bits(plain) == pytest.approx(_bits(fast), rel=1e-6)
    assert plain.hours[0, st.H_REQUESTS] == fast.hours[0, st.H_REQUESTS] == len(stream[0])
    assert np.allclose(plain.x, fast.x, atol=1e-6)


def test_equations_agree_compiled_and_plain() -> None:
    machine = compiled()
    for x, b, kv, p in ((1.0, 10.0, 2e4, 502.0), (0.62, 200.0, 3e5, 64.0), (0.3, 1.0, 100.0, 0.0)):
        assert machine.under_limit(PLANT, x, b, kv, p, 500.0) == pytest.approx(
            equations.under_limit(PLANT, x, b, kv, p, 500.0), rel=1e-9
        )


def test_every_request_ends_once_and_the_cache_is_empty_after() -> None:
    stream = _stream(20.0, 60.0)
    sim = _sim(stream, 4)
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 600.0)
    assert sim.hours[0, st.H_REQUESTS] == sim.hist[0].sum() == sim.hist[2].sum() == len(stream[0])
    assert sim.hist[1].sum() == stream[2].sum() - len(stream[0])
    for left in (sim.running, sim.kv, sim.reserved, sim.queued, sim.admitted, sim.waiting):
        assert np.allclose(left, 0.0, atol=1e-6)


def test_kv_limit_holds_requests_back_and_loses_none() -> None:
    arrival, prompt, output = np.zeros(6), np.full(6, 150_000, np.int32), np.full(6, 3, np.int32)
    sim = _sim((arrival, prompt, output))
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 5.0)
    assert sim.reserved[0] <= PLANT.kv_limit_tokens
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 600.0)
    assert sim.hours[0, st.H_REQUESTS] == 6


def test_draining_replica_serves_to_the_end_and_then_draws_nothing() -> None:
    stream = _stream(2.0, 20.0)
    sim = _sim(stream, 2)
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 10.0)
    sim.state[1] = st.DRAINING
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 120.0)
    assert sim.state[1] == st.OFF
    before = float(sim.energy[1])
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 300.0)
    assert sim.energy[1] == before
    assert sim.hours[0, st.H_REQUESTS] == len(stream[0])


def test_boot_takes_its_time_and_its_watts() -> None:
    sim = _sim((np.array([0.0, 500.0]), np.array([10, 10], np.int32), np.array([1, 1], np.int32)), 2)
    sim.state[1], sim.ready_s[1] = st.LOADING, 420.0
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 419.0)
    assert sim.state[1] == st.LOADING
    assert sim.energy[1] == pytest.approx(419.0 * 100.0)
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 421.0)
    assert sim.state[1] == st.ON


def test_a_clock_lands_after_its_delay() -> None:
    sim = _sim((np.array([99.0]), np.array([10], np.int32), np.array([1], np.int32)))
    compiled().ask(sim, 0, 0.7, 512.0, 0.0, 0.1)
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 0.05)
    assert sim.x[0] == 1.0
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 1.0)
    assert sim.x[0] == 0.7
    assert sim.energy[0] == pytest.approx(0.1 * equations.idle_w(PLANT, 1.0) + 0.9 * equations.idle_w(PLANT, 0.7))


def test_wall_counts_hosts_bare_gpus_and_power_supplies() -> None:
    sim = _sim((np.array([5000.0]), np.array([10], np.int32), np.array([1], np.int32)), 4)
    sim.state[1:] = st.OFF
    compiled().advance(sim, PLANT, PLANT, Node(), _static(), 100.0)
    assert sim.hours[0, st.H_HOST_J] == pytest.approx(100.0 * (1500.0 + 40.0))
    assert sim.hours[0, st.H_GPU_J] == pytest.approx(100.0 * (equations.idle_w(PLANT, 1.0) + 70.0))


def test_quantile_interpolates_inside_a_bin() -> None:
    counts = np.zeros(st.BINS)
    counts[800] = 100.0
    assert quantile(counts, 0.5) == pytest.approx(np.exp(800.5 * st.BIN_WIDTH) * 1e-3)
    assert np.isnan(quantile(np.zeros(st.BINS), 0.5))
