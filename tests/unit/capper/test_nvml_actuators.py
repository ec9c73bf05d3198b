"""The NVIDIA actuators on the C stand-in: the real bindings, the real C boundary, simulated devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.capper.actuators.errors import ActuatorError, DeviceLost, NotPermitted, NotSupported, OutOfRange
from agents.capper.actuators.nvml import NvmlTable
from agents.capper.actuators.nvml_clock import NvmlClockActuator
from agents.capper.actuators.nvml_power import NvmlPowerActuator
from tests.fakes.nvml import FakeNvml


class Now:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def nvml(tmp_path: Path) -> Iterator[FakeNvml]:
    made = FakeNvml.or_skip(tmp_path, gpus=2)
    made.load()
    yield made
    made.unload()
    made.close()


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def table(nvml: FakeNvml, now: Now) -> Iterator[NvmlTable]:
    made = NvmlTable(monotonic=now)
    yield made
    made.close()


@pytest.fixture
def power(table: NvmlTable) -> NvmlPowerActuator:
    return NvmlPowerActuator(table)


@pytest.fixture
def clock(table: NvmlTable) -> NvmlClockActuator:
    return NvmlClockActuator(table)


def test_power_is_set_in_watts_and_read_back(nvml: FakeNvml, power: NvmlPowerActuator) -> None:
    first, second = power.uuids()
    bounds = power.bounds(first)
    assert (bounds.minimum, bounds.maximum, bounds.default, power.read(first)) == (200.0, 700.0, 700.0, 700.0)
    power.set(first, 412.5)
    assert nvml.limits_w() == {first: 412.5, second: 700.0}
    assert power.read(first) == 412.5
    assert power.measured_w(first) == 70.0


def test_the_limit_bites_in_the_devices_own_reading(nvml: FakeNvml, power: NvmlPowerActuator) -> None:
    first = power.uuids()[0]
    nvml.load_gpu(0, demand_w=650)
    assert power.measured_w(first) == 650.0
    power.set(first, 300.0)
    assert power.measured_w(first) == 300.0


@pytest.mark.parametrize("watts", [199.0, 701.0])
def test_out_of_range_is_the_devices_own_word(nvml: FakeNvml, power: NvmlPowerActuator, watts: float) -> None:
    with pytest.raises(OutOfRange, match="Invalid Argument"):
        power.set(power.uuids()[0], watts)
    with pytest.raises(OutOfRange, match="cannot be cleared"):
        power.set(power.uuids()[0], None)


def test_a_missing_right_says_which(nvml: FakeNvml, power: NvmlPowerActuator) -> None:
    first = power.uuids()[0]
    nvml.forbidden()
    with pytest.raises(NotPermitted, match="Insufficient Permissions; setting needs CAP_SYS_ADMIN"):
        power.set(first, 400.0)


def test_a_lying_set_is_seen_by_reading_back(nvml: FakeNvml, power: NvmlPowerActuator) -> None:
    first = power.uuids()[0]
    nvml.lying_set(0)
    power.set(first, 400.0)
    assert power.read(first) == 700.0


def test_a_lost_gpu_hides_no_other_and_comes_back(nvml: FakeNvml, power: NvmlPowerActuator, now: Now) -> None:
    first, second = power.uuids()
    nvml.lost(0)
    with pytest.raises(DeviceLost, match="GPU is lost"):
        power.read(first)
    assert power.read(second) == 700.0
    now.s += 10
    with pytest.raises(DeviceLost, match="does not answer"):
        power.read(first)
    nvml.heal()
    with pytest.raises(DeviceLost):
        power.read(first)  # asked again too soon
    now.s += 10
    assert power.read(first) == 700.0


def test_a_reloaded_driver_gets_a_new_session(nvml: FakeNvml, power: NvmlPowerActuator, now: Now) -> None:
    first = power.uuids()[0]
    now.s += 10
    nvml.driver_gone()
    with pytest.raises(DeviceLost):
        power.read(first)
    with pytest.raises(DeviceLost, match="NVML does not open: Driver Not Loaded"):
        power.read(first)
    nvml.heal()
    now.s += 10
    assert power.read(first) == 700.0


def test_a_lock_is_an_upper_one_on_the_devices_grid(nvml: FakeNvml, clock: NvmlClockActuator) -> None:
    first, second = clock.uuids()
    bounds = clock.bounds(first)
    assert (bounds.minimum, bounds.maximum, bounds.grid[:2], len(bounds.grid)) == (345.0, 1980.0, (345.0, 360.0), 110)
    clock.set(first, 1200.0)
    assert nvml.locks_mhz() == {first: 1200, second: 0}
    assert nvml.state.gpu[0].lock_min_mhz == 345
    assert clock.read(first) == 1200.0
    clock.set(first, None)
    assert (nvml.locks_mhz()[first], clock.read(first)) == (0, None)


def test_a_lock_that_is_not_in_force_shows_in_the_sm_clock(nvml: FakeNvml, clock: NvmlClockActuator) -> None:
    first = clock.uuids()[0]
    nvml.load_gpu(0, demand_w=400)
    nvml.lying_set(0)
    clock.set(first, 1200.0)
    assert clock.read(first) == 1980.0
    assert not clock.exact_readback and "sm_lock_mhz.readback=sm_clock_below_lock" in clock.capability


def test_a_device_without_a_list_of_clocks_cannot_be_locked(
    nvml: FakeNvml, clock: NvmlClockActuator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = clock.uuids()[0]
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlDeviceGetSupportedMemoryClocks", lambda handle: [])
    with pytest.raises(NotSupported, match="lists no clocks"):
        clock.bounds(first)


def test_a_function_that_the_driver_lacks_is_not_supported(nvml: FakeNvml, table: NvmlTable) -> None:
    with pytest.raises(NotSupported):
        table.call(table.uuids()[0], "nvmlDeviceGetViolationStatus", 0)


def test_any_other_code_may_be_tried_again(nvml: FakeNvml, power: NvmlPowerActuator) -> None:
    first = power.uuids()[0]
    nvml.state.gpu[0].get_err = 999
    with pytest.raises(ActuatorError) as caught:
        power.read(first)
    assert type(caught.value) is ActuatorError and caught.value.retryable


def test_slow_devices_still_answer(nvml: FakeNvml, power: NvmlPowerActuator) -> None:
    nvml.slow(1)
    assert power.read(power.uuids()[1]) == 700.0


def test_the_energy_counter_may_start_again(nvml: FakeNvml, table: NvmlTable) -> None:
    first = table.uuids()[0]
    nvml.state.gpu[0].energy_uj = 10**12
    before = table.call(first, "nvmlDeviceGetTotalEnergyConsumption")
    nvml.energy_reset(0)
    assert table.call(first, "nvmlDeviceGetTotalEnergyConsumption") < before
