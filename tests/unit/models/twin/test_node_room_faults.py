"""Node at the wall, room and faults."""

from __future__ import annotations

import numpy as np
import pytest

from models.twin.faults import PER_GPU_HOUR, Fault, FaultySensor, factor, hit, obeyed, schedule
from models.twin.node import HIGH, LOW, MID, node_power, psu_efficiency
from models.twin.room import RoomAir, RoomParams, facility, over_budget, rack_w

ROOM = RoomParams()


def test_wall_watts_are_the_sum_of_their_parts_and_grow_with_the_gpus() -> None:
    gpu_w = np.array([560.0, 2000.0, 4000.0, 5600.0])
    power = node_power(MID, gpu_w=gpu_w, busy_ratio=np.array([0.0, 0.5, 1.0, 1.0]))
    assert power.wall_w == pytest.approx(power.gpu_w + power.host_w + power.fan_w + power.loss_w)
    assert np.all(np.diff(power.wall_w) > np.diff(gpu_w))
    assert 8_000 < power.wall_w[-1] < 9_000


def test_an_off_node_keeps_only_its_board_controller() -> None:
    power = node_power(MID, gpu_w=np.array([900.0, 900.0]), busy_ratio=np.zeros(2), on=np.array([True, False]))
    assert power.wall_w[1] == MID.off_w and power.gpu_w[1] == 0.0 and power.wall_w[0] > 1_500.0


def test_variants_span_the_middle_and_hot_air_costs_fan_watts() -> None:
    low, mid, high = (
        float(node_power(one, gpu_w=np.array([4000.0]), busy_ratio=np.ones(1)).wall_w[0]) for one in (LOW, MID, HIGH)
    )
    assert low < mid < high
    args = {"gpu_w": np.array([3000.0]), "busy_ratio": np.ones(1)}
    assert node_power(MID, inlet_c=37.0, **args).fan_w[0] > node_power(MID, **args).fan_w[0]
    assert psu_efficiency(np.array([0.5]))[0] == pytest.approx(0.96)


def test_pue_is_low_in_the_cold_and_unknown_when_nothing_runs() -> None:
    racks = rack_w(np.full(100, 8_000.0), np.arange(100) % 10, 10, ROOM)
    cold, hot = (facility(racks, outside_c=c, params=ROOM) for c in (5.0, 35.0))
    assert cold.pue is not None and hot.pue is not None
    assert 1.05 < cold.pue < 1.2 < hot.pue < 1.6
    assert cold.total_w == pytest.approx(cold.it_w + cold.distribution_w + cold.cooling_w)
    assert facility(np.zeros(10), outside_c=5.0, params=ROOM).pue is None
    assert over_budget(racks, np.full(10, 80_000.0)).all()


def test_a_cooling_failure_warms_the_inlet_in_minutes() -> None:
    air = RoomAir(ROOM, start_w=800_000.0)
    before = air.inlet_c
    assert air.step(600.0, 800_000.0, supply_rise_k=10.0) == pytest.approx(before + 10.0 * (1 - np.exp(-1.0)), abs=0.01)


def test_faults_hit_their_gpus_in_their_time_and_no_others() -> None:
    faults = [Fault("slow_rank", 10.0, 20.0, (1,), 1.3), Fault("slow_rank", 15.0, 30.0, (1, 2), 1.1)]
    assert factor(faults, "slow_rank", 9.9, 3).tolist() == [1.0, 1.0, 1.0]
    assert factor(faults, "slow_rank", 16.0, 3) == pytest.approx([1.0, 1.43, 1.1])
    assert hit(faults, "gpu_lost", 16.0, 3).tolist() == [False] * 3
    with pytest.raises(ValueError, match="fault thermal ends at 1 s, not after its start at 2 s"):
        Fault("thermal", 2.0, 1.0, (0,))


def test_a_faulty_sensor_sticks_lies_loses_and_restarts_its_counter() -> None:
    faults = [
        Fault("sensor_stuck", 5.0, 9.0, (0,)),
        Fault("sensor_biased", 0.0, 99.0, (1,), 0.9),
        Fault("sensor_missing", 5.0, 9.0, (2,)),
        Fault("counter_reset", 5.0, 99.0, (3,)),
        Fault("gpu_lost", 5.0, 9.0, (4,)),
    ]
    sensor = FaultySensor(faults, 5)
    watts, counter = sensor.read(1.0, np.full(5, 300.0), np.full(5, 1e6))
    assert watts.tolist() == [300.0, 270.0, 300.0, 300.0, 300.0]
    watts, counter = sensor.read(6.0, np.full(5, 500.0), np.full(5, 2e6))
    assert watts[:2].tolist() == [300.0, 450.0] and np.isnan(watts[[2, 4]]).all()
    assert counter[3] == 0.0 and np.isnan(counter[4]) and counter[2] == 2e6
    _, counter = sensor.read(7.0, np.full(5, 500.0), np.full(5, 2.5e6))
    assert counter[3] == pytest.approx(5e5)
    watts, _ = sensor.read(10.0, np.full(5, 500.0), np.full(5, 3e6))
    assert watts[0] == 500.0


def test_an_ignored_limit_stays_and_rates_are_the_published_ones() -> None:
    ignored = [Fault("limit_ignored", 0.0, 5.0, (1,))]
    assert obeyed(ignored, 1.0, asked_w=np.full(2, 300.0), before_w=np.full(2, 700.0)).tolist() == [300.0, 700.0]
    found = schedule("gpu_lost", gpus=16_384, seconds=54 * 86_400.0, seed=1, lasts_s=3_600.0)
    assert abs(len(found) - 148) < 4 * np.sqrt(148)
    assert PER_GPU_HOUR["gpu_lost"] == pytest.approx(148 / (16_384 * 54 * 24))
    with pytest.raises(ValueError, match="no rate of thermal is published; give per_gpu_hour"):
        schedule("thermal", gpus=1, seconds=1.0, seed=1, lasts_s=1.0)
