"""The cluster as the fleet uses it: shapes, throttle bits, sensor, refusals, determinism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.control.profiles import LLAMA_70B_H100X4
from models.twin.cluster import TwinCluster
from models.twin.device import GPU_IDLE, HW_SLOWDOWN, SW_POWER_CAP, SW_THERMAL
from models.twin.faults import Fault
from models.twin.params import ThermalParams, TwinParams, variant
from models.twin.workload import Workload
from tests.unit.models.twin.streams import poisson, stream


def _cluster(replicas: int = 4, *, work: Workload | None = None, params: TwinParams | None = None) -> TwinCluster:
    return TwinCluster(
        replicas=replicas,
        workload=work if work is not None else poisson(replicas, rate=2.0, seconds=60.0, seed=1, period_s=60.0),
        params=params or TwinParams(),
        seed=7,
    )


def _advance(twin: TwinCluster, seconds: float, *, lock: float = 0.0, limit: float = 700.0, dt: float = 1.0) -> None:
    for _ in range(round(seconds / dt)):
        twin.advance(dt, sm_lock_mhz=np.full(twin.gpus, lock), limit_w=np.full(twin.gpus, limit))


def test_arrays_have_one_entry_per_gpu_or_replica() -> None:
    twin = _cluster()
    _advance(twin, 3.0)
    for name in ("power_w", "true_power_w", "energy_mj", "sm_mhz", "temp_c", "util_ratio", "throttle"):
        assert getattr(twin, name).shape == (16,), name
    for name in (
        "running", "waiting", "waiting_tokens", "kv_tokens", "kv_use_ratio",
        "prompt_tokens_total", "generation_tokens_total", "requests_total", "arrived_total",
    ):  # fmt: skip
        assert getattr(twin, name).shape == (4,), name
    assert twin.throttle.dtype == np.int64
    assert twin.energy_mj.dtype == np.float64


def test_same_seed_gives_the_same_cluster_and_another_does_not() -> None:
    one, two = _cluster(), _cluster()
    _advance(one, 5.0)
    _advance(two, 5.0)
    assert np.array_equal(one.energy_mj, two.energy_mj)
    assert len(np.unique(one.energy_mj)) == 16


def test_counters_do_not_depend_on_the_step() -> None:
    coarse, fine = _cluster(), _cluster()
    _advance(coarse, 10.0, dt=1.0)
    _advance(fine, 10.0, dt=0.05)
    assert fine.energy_mj == pytest.approx(coarse.energy_mj, rel=1e-9)
    assert fine.power_w == pytest.approx(coarse.power_w, rel=1e-6)
    assert fine.temp_c == pytest.approx(coarse.temp_c, abs=1.5)


def test_lock_lowers_clock_and_energy_after_a_tenth_of_a_second() -> None:
    twin = _cluster()
    _advance(twin, 10.0)
    twin.advance(0.05, sm_lock_mhz=np.full(16, 1200.0), limit_w=np.full(16, 700.0))
    assert twin.sm_mhz.min() > 1200
    _advance(twin, 1.0, lock=1200.0)
    assert twin.sm_mhz.max() == 1200


def test_limit_is_kept_by_every_board_and_says_why() -> None:
    twin = _cluster()
    _advance(twin, 20.0, limit=400.0)
    assert twin.true_power_w.max() <= 400.1
    assert np.any(twin.throttle & SW_POWER_CAP)
    assert np.all(twin.sm_mhz[(twin.throttle & SW_POWER_CAP) > 0] < 1980)


def test_idle_cluster_says_so_and_draws_idle_watts() -> None:
    twin = _cluster(work=stream([]), params=replace(TwinParams(), power_spread=0.0))
    _advance(twin, 3.0)
    assert np.all(twin.throttle == GPU_IDLE)
    assert np.all(twin.util_ratio == 0.0)
    assert twin.power_w == pytest.approx(np.full(16, 115.0))
    assert twin.energy_mj == pytest.approx(np.full(16, 115.0 * 3.0 * 1e3))
    _advance(twin, 3.0, lock=990.0)
    assert twin.power_w == pytest.approx(np.full(16, 70.0 + 45.0 * 0.5 * 0.7**2))


def test_hot_inlet_slows_the_gpus_and_sets_the_bits() -> None:
    warm = replace(TwinParams(), thermal=ThermalParams(inlet_c=58.0, inlet_spread_c=0.0))
    twin = _cluster(params=warm)
    _advance(twin, 60.0)
    assert np.any(twin.throttle & SW_THERMAL)
    assert twin.sm_mhz.min() < 1980
    hot = replace(TwinParams(), thermal=ThermalParams(inlet_c=90.0, inlet_spread_c=0.0))
    burning = _cluster(params=hot)
    _advance(burning, 5.0)
    assert np.all(burning.throttle & HW_SLOWDOWN)
    assert burning.sm_mhz.max() <= 990


def test_utilisation_is_the_busy_share_of_the_step() -> None:
    twin = _cluster(1, work=stream([(0.5, 64, 1)]))
    _advance(twin, 1.0)
    assert 0.0 < twin.util_ratio[0] < 0.1
    _advance(twin, 1.0)
    assert twin.util_ratio[0] == 0.0


@pytest.mark.parametrize(
    ("dt", "locks", "limits", "words"),
    [
        (0.0, np.zeros(16), np.full(16, 700.0), "time only goes forward"),
        (1.0, np.zeros(15), np.full(16, 700.0), "sm_lock_mhz has shape"),
        (1.0, np.zeros(16), np.full((2, 8), 700.0), "limit_w has shape"),
        (1.0, np.full(16, np.nan), np.full(16, 700.0), "sm_lock_mhz holds a value that is not finite"),
    ],
)
def test_advance_refuses_what_makes_no_sense(dt: float, locks: np.ndarray, limits: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _cluster().advance(dt, sm_lock_mhz=locks, limit_w=limits)


def test_stack_and_gpus_must_match() -> None:
    with pytest.raises(ValueError, match="spans 4 GPUs, not 8"):
        TwinCluster(replicas=1, gpus_per_replica=8, workload=stream([]), params=TwinParams(), seed=0)


def test_variants_agree_at_full_clock_and_differ_below() -> None:
    work = poisson(4, rate=2.0, seconds=15.0, seed=1)
    energy = {}
    for kappa in ("low", "mid", "high"):
        for lock in (0.0, 1185.0):
            twin = _cluster(work=work, params=variant(kappa=kappa))
            _advance(twin, 15.0, lock=lock)
            energy[kappa, lock] = float(twin.energy_mj.sum())
    assert energy["low", 0.0] == pytest.approx(energy["mid", 0.0], rel=0.02)
    assert energy["high", 0.0] == pytest.approx(energy["mid", 0.0], rel=0.02)
    saving = [1.0 - energy[kappa, 1185.0] / energy[kappa, 0.0] for kappa in ("low", "mid", "high")]
    assert saving[0] < saving[1] < saving[2]


def test_default_stack_is_the_controllers_profile() -> None:
    assert TwinParams().stack is LLAMA_70B_H100X4
    assert variant() == TwinParams()


# --- faults ---


def test_a_foreign_process_draws_what_limit_and_clock_leave_and_is_gone_with_the_fault() -> None:
    twin, other = _cluster(), _cluster()
    _advance(twin, 5.0)
    _advance(other, 5.0)
    twin.set_faults([Fault("burn", twin.now_s, twin.now_s + 10.0, tuple(range(4)))])
    _advance(twin, 10.0)
    assert twin.power_w[:4] == pytest.approx(np.full(4, 700.0), abs=1.0)
    assert (twin.util_ratio[:4] == 1.0).all() and not np.any(twin.throttle[:4] & GPU_IDLE)
    assert np.all(twin.throttle[:4] & SW_POWER_CAP)
    spent = twin.energy_mj.copy()
    _advance(other, 10.0)
    assert spent[4:] == pytest.approx(other.energy_mj[4:]), "the other GPUs are as without the fault"
    assert (spent[:4] > other.energy_mj[:4]).all()
    before = other.energy_mj.copy()
    _advance(twin, 10.0)
    _advance(other, 10.0)
    assert twin.energy_mj - spent == pytest.approx(other.energy_mj - before), "as before again"


def test_a_lower_clock_bounds_the_foreign_process_too() -> None:
    twin = _cluster()
    twin.set_faults([Fault("burn", 0.0, 60.0, (0, 1, 2, 3))])
    _advance(twin, 10.0, lock=1200.0)
    assert twin.power_w[:4].min() > 400.0 and twin.power_w[:4].max() < 650.0


def test_a_router_that_passes_few_requests_starves_the_engine_and_counts_them() -> None:
    twin = _cluster()
    _advance(twin, 10.0)
    made, arrived = twin.generation_tokens_total.copy(), twin.arrived_total.copy()
    twin.set_faults([Fault("starved", twin.now_s, twin.now_s + 40.0, (0, 1, 2, 3), 10.0)])
    _advance(twin, 40.0)
    rates = (twin.generation_tokens_total - made) / 40.0
    assert rates[0] < 0.3 * rates[1:].min()
    shed = twin.engine.queues.shed
    assert shed[0] == pytest.approx(0.9 * (twin.arrived_total - arrived)[0], rel=0.1) and (shed[1:] == 0).all()
    _advance(twin, 20.0)
    assert np.array_equal(twin.engine.queues.shed, shed)
    assert np.array_equal(twin.arrived_total, twin.requests_total + twin.running + twin.waiting + shed)


def test_a_slow_link_stretches_every_step_of_its_engine() -> None:
    twin = _cluster()
    _advance(twin, 10.0)
    for replica in range(4):
        twin.take_histograms(replica)
    twin.set_faults([Fault("slow_rank", twin.now_s, twin.now_s + 30.0, (2,), 3.0)])
    _advance(twin, 30.0)
    gaps = [(sum_ms := tbt.sum_ms) / sum(tbt.count) for _, tbt, _ in map(twin.take_histograms, range(4))]
    assert sum_ms > 0 and gaps[0] > 2.5 * max(gaps[1:]), "one slow GPU holds up the four of its engine"
    assert twin.power_w[:4].max() < twin.power_w[4:].min()


def test_a_cluster_refuses_faults_that_it_cannot_have() -> None:
    twin = _cluster()
    with pytest.raises(ValueError, match="fault thermal is not one of burn, starved, slow_rank"):
        twin.set_faults([Fault("thermal", 0.0, 1.0, (0,), 2.0)])
    with pytest.raises(ValueError, match="fault burn names GPU 16; the cluster has 16"):
        twin.set_faults([Fault("burn", 0.0, 1.0, (16,))])
