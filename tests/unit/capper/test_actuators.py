"""The twin's and the rehearsal's actuators keep the contract of every actuator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agents.capper.actuators.dry_run import DryRunActuator
from agents.capper.actuators.errors import ActuatorError, DeviceLost, OutOfRange
from agents.capper.actuators.make import make
from agents.capper.actuators.twin import TwinActuator
from agents.capper.errors import CapperError
from tests.fakes.actuators import FakeActuator


def registers() -> Any:
    return SimpleNamespace(
        limit_w=[700.0, 650.0],
        sm_lock_mhz=[0.0, 1410.0],
        limit_default_w=[700.0, 700.0],
        limit_min_w=[200.0, 200.0],
        limit_max_w=[700.0, 700.0],
        sm_min_mhz=[345.0, 345.0],
        sm_max_mhz=[1980.0, 1980.0],
        power_w=[400.0, float("nan")],
    )


ROWS = {"GPU-x": 0, "GPU-y": 1}


def test_twin_power_reads_and_sets_its_row() -> None:
    twin = registers()
    actuator = TwinActuator(twin, "power_limit_w", ROWS)
    assert (actuator.uuids(), actuator.name, actuator.quality) == (("GPU-x", "GPU-y"), "twin_power", "simulated")
    assert (actuator.read("GPU-y"), actuator.bounds("GPU-x").minimum, actuator.bounds("GPU-x").default) == (
        650,
        200,
        700,
    )
    actuator.set("GPU-y", 500.0)
    assert twin.limit_w == [700.0, 500.0]
    assert (actuator.measured_w("GPU-x"), actuator.measured_w("GPU-y")) == (400.0, None)


def test_twin_clock_knows_no_lock_as_none() -> None:
    twin = registers()
    actuator = TwinActuator(twin, "sm_lock_mhz", ROWS)
    assert (actuator.read("GPU-x"), actuator.read("GPU-y")) == (None, 1410.0)
    actuator.set("GPU-x", 900.0)
    actuator.set("GPU-y", None)
    assert twin.sm_lock_mhz == [900.0, 0.0]


@pytest.mark.parametrize(
    ("knob", "value"), [("power_limit_w", 199.0), ("power_limit_w", None), ("sm_lock_mhz", 2000.0)]
)
def test_the_twin_refuses_as_a_device_would(knob: Any, value: float | None) -> None:
    with pytest.raises(OutOfRange):
        TwinActuator(registers(), knob, ROWS).set("GPU-x", value)


def test_a_gpu_that_is_not_there_is_lost() -> None:
    with pytest.raises(DeviceLost, match="not among the 2 simulated GPUs"):
        TwinActuator(registers(), "power_limit_w", ROWS).read("GPU-z")


def test_a_rehearsal_writes_nothing() -> None:
    inner = FakeActuator("power_limit_w", ("GPU-a",))
    rehearsal = DryRunActuator(inner)
    rehearsal.set("GPU-a", 500.0)
    assert (rehearsal.read("GPU-a"), inner.read("GPU-a"), inner.set_calls) == (500.0, 700.0, 0)
    assert (rehearsal.quality, rehearsal.name) == ("simulated", "dry_run(fake_power)")
    assert rehearsal.uuids() == ("GPU-a",) and rehearsal.measured_w("GPU-a") == 321.0
    with pytest.raises(OutOfRange):
        rehearsal.set("GPU-a", 100.0)


def test_actuators_are_made_by_kind() -> None:
    assert [actuator.name for actuator in make("nvml")] == ["nvml_power", "nvml_clock"]
    assert [actuator.name for actuator in make("dry-run")] == ["dry_run(nvml_power)", "dry_run(nvml_clock)"]
    with pytest.raises(CapperError, match="no actuators are made for 'twin'"):
        make("twin")


def test_without_a_driver_the_reason_is_one_sentence() -> None:
    class NoDriver:
        class NVMLError(Exception):
            value = 12

        class NVMLLibraryMismatchError(Exception):
            pass

        def nvmlInit(self) -> None:
            raise self.NVMLError("NVML Shared Library Not Found")

    from agents.capper.actuators.nvml import NvmlTable
    from agents.capper.actuators.nvml_power import NvmlPowerActuator

    actuator = NvmlPowerActuator(NvmlTable(NoDriver()))
    with pytest.raises(ActuatorError, match="NVML does not open: NVML Shared Library Not Found"):
        actuator.uuids()
