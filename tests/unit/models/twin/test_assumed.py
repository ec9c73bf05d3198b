"""What the twin assumes is written down with its interval and source; and laws that hold whatever is assumed."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bench.plantparts import Node
from models.control.profiles import H100_SXM
from models.twin import assumed
from models.twin.device import Load, capped, knee_factor
from models.twin.node import HIGH, LOW, MID, node_power
from models.twin.params import ThermalParams, TwinParams, variant
from models.twin.room import RoomParams, facility, rack_w
from models.twin.thermal import Thermal

STACK = variant().stack


def _entries() -> list[tuple[str, dict[str, Any]]]:
    return [(f"{group}.{name}", one) for group, rows in assumed.table().items() if isinstance(rows, dict)
            for name, one in rows.items()]  # fmt: skip


def test_the_file_is_what_the_code_uses() -> None:
    shipped = files("models.twin").joinpath("data/assumed.json").read_text()
    assert shipped == assumed.text(), "run `python -m models.twin.assumed > models/twin/data/assumed.json`"
    assert json.loads(shipped)["date"]


@pytest.mark.parametrize(("name", "one"), _entries())
def test_every_assumption_has_a_source_and_lies_in_its_interval(name: str, one: dict[str, Any]) -> None:
    assert len(one["source"]) > 7, name
    if one["interval"] is None:
        assert name.startswith("room."), f"{name} has no interval"
    else:
        low, high = one["interval"]
        assert low <= one["value"] <= high and low < high, name


def test_nothing_of_node_or_serving_split_is_left_out() -> None:
    table = assumed.table()
    from dataclasses import fields

    from models.twin.node import NodeParams

    left = {one.name for one in fields(NodeParams)} - set(table["node"])
    assert left == {"gpus", "fan_least_flow", "inlet_flow_per_k"}
    assert set(table["serving_stack"]) >= {"static_w", "memory_w", "clock_w", "flop_w", "x0", "phi", "v_min", "x_knee"}
    assert set(table["room"]) == {one.name for one in fields(RoomParams)}


watts = st.floats(0.0, 700.0)


@given(st.lists(watts, min_size=1, max_size=8), st.floats(0.0, 1.0), st.floats(15.0, 45.0))
@settings(max_examples=60, deadline=None)
def test_the_wall_draws_more_than_the_gpus_and_the_meter_more_than_the_wall(
    gpus: list[float], busy: float, inlet_c: float
) -> None:
    gpu_w = np.array([sum(gpus)])
    walls = [node_power(one, gpu_w=gpu_w, busy_ratio=np.array([busy]), inlet_c=inlet_c) for one in (LOW, MID, HIGH)]
    for power in walls:
        parts = power.gpu_w + power.host_w + power.fan_w + power.loss_w
        assert power.wall_w == pytest.approx(parts) and float(power.loss_w[0]) > 0.0
        assert power.wall_w[0] > gpu_w[0]
    assert walls[0].wall_w[0] < walls[1].wall_w[0] < walls[2].wall_w[0]
    more = node_power(MID, gpu_w=gpu_w + 10.0, busy_ratio=np.array([busy]), inlet_c=inlet_c)
    assert more.wall_w[0] - walls[1].wall_w[0] > 10.0
    building = facility(rack_w(walls[1].wall_w, np.zeros(1, dtype=np.int64), 1, RoomParams()), outside_c=inlet_c,
                        params=RoomParams())  # fmt: skip
    assert building.total_w > walls[1].wall_w[0]
    assert building.total_w == pytest.approx(building.it_w + building.distribution_w + building.cooling_w)


def test_off_draws_less_than_bare_less_than_a_context_less_than_work() -> None:
    device = STACK.device
    context_w = device.idle_w + device.idle_clock_w
    low_clock = device.idle_w + device.idle_clock_w * float(
        knee_factor(np.array([0.4]), v_min=device.v_min, x_knee=device.x_knee)[0]
    )
    load = Load(np.array([8.0]), np.array([8000.0]), np.zeros(1))
    _, _, busy = capped(STACK, load, x=np.ones(1), cap_w=np.array([device.limit_default_w]))
    assert MID.off_w / MID.gpus < MID.idle_bare_w < low_clock < context_w < busy[0]


def test_the_benchs_node_is_one_of_the_twins() -> None:
    """The compiled bench counts a node simply; at work the twin's low and high hold it.

    At rest it counts the host as busy and lies 8 % above the twin's high (docs/twin.md says what that does to savings).
    """
    bench = Node()
    for gpu_w, busy, above in ((8 * 115.0, 0.0, 1.08), (8 * 350.0, 1.0, 1.0), (8 * 700.0, 1.0, 1.0)):
        low, high = (
            float(node_power(one, gpu_w=np.array([gpu_w]), busy_ratio=np.array([busy])).wall_w[0])
            for one in (LOW, HIGH)
        )
        assert low <= wall_of(bench, gpu_w) <= high * above


def wall_of(node: Node, gpu_w: float) -> float:
    return (node.host_w + (1.0 + node.host_per_gpu_w) * gpu_w) / node.supply_ratio


def test_throttling_starts_at_its_temperature_and_costs_clock_never_more_than_all() -> None:
    params = ThermalParams()
    hot = np.linspace(60.0, 110.0, 201)
    twin = Thermal(params, inlet_c=hot, start_w=np.zeros(len(hot)))
    ceiling = twin.clock_ceiling()
    assert np.all(ceiling[hot <= params.slowdown_c] == 1.0) and np.all(np.diff(ceiling) <= 1e-12)
    assert np.all(ceiling[hot >= params.hw_slowdown_c] <= params.hw_slowdown_x) and np.all(ceiling > 0.0)
    assert np.array_equal(twin.software_slowdown(), hot > params.slowdown_c)


def test_leakage_adds_watts_for_each_kelvin_and_its_variants_are_ordered() -> None:
    leaks = [variant(leakage=one).thermal for one in ("none", "low", "mid", "high")]  # type: ignore[arg-type]
    found = [float(Thermal(one, inlet_c=np.array([27.0]), start_w=np.array([700.0])).leak_w()[0]) for one in leaks]
    warm = 27.0 + 700.0 * (leaks[0].die_k_per_w + leaks[0].sink_k_per_w) - leaks[0].leak_reference_c
    assert found == pytest.approx([0.0, 0.5 * warm, 1.0 * warm, 1.5 * warm]) and warm > 0.0


def test_at_the_clock_floor_the_limit_is_no_longer_kept() -> None:
    """The cliff: from the floor down a lower limit changes nothing, above it watts are the limit's."""
    load = Load(np.full(6, 200.0), np.full(6, 200_000.0), np.full(6, 312.0))
    caps = np.array([200.0, 180.0, 160.0, 140.0, 120.0, 100.0])
    x, _, drawn = capped(STACK, load, x=np.ones(6), cap_w=caps)
    floor = H100_SXM.fmin_mhz / H100_SXM.fmax_mhz
    at_floor = np.isclose(x, floor)
    assert at_floor.any() and np.ptp(drawn[at_floor]) == pytest.approx(0.0, abs=1e-9)
    assert np.all(drawn[at_floor] >= caps[at_floor]) and np.all(drawn[~at_floor] <= caps[~at_floor] + 0.5)


def test_the_twin_takes_its_defaults_from_what_is_written_down() -> None:
    assert TwinParams().stack == variant().stack and TwinParams().thermal == ThermalParams()


def test_boot_off_and_bare_are_the_same_in_the_bench_and_the_twin() -> None:
    bench = Node()
    assert (bench.boot_s, bench.off_w, bench.bare_w) == (MID.boot_s, MID.off_w, MID.idle_bare_w)
