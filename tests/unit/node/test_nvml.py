"""NVML through stand-in bindings: units, UUIDs, missing symbols, GPUs and drivers that go and come back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agents.node.sources.nvml import BACKOFF_MAX_S, NvmlSource
from streams.contract.records import GpuColumns
from tests.fakes.sources import UUIDS, FakeNvml


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def gpus(source: NvmlSource) -> GpuColumns:
    reading = source.read(1)
    assert reading.gpu is not None
    return reading.gpu


def test_reads_every_column_in_the_contracts_units(clock: Clock) -> None:
    source = NvmlSource(FakeNvml(), monotonic=clock)
    assert source.probe().present is True
    reading = source.read(7)
    assert (reading.source, reading.ts_ns, reading.quality) == ("nvml", 7, "measured")
    assert reading.gpu == GpuColumns(
        uuid=UUIDS[:2],
        name=("NVIDIA H100 80GB HBM3",) * 2,
        state=("ok", "ok"),
        power_w=(412.345,) * 2,
        energy_mj=(987_654_321,) * 2,
        limit_w=(650.0,) * 2,
        limit_default_w=(700.0,) * 2,
        limit_min_w=(200.0,) * 2,
        limit_max_w=(700.0,) * 2,
        sm_mhz=(1755,) * 2,
        sm_max_mhz=(1980,) * 2,
        mem_mhz=(2619,) * 2,
        util_ratio=(0.87,) * 2,
        mem_util_ratio=(0.4,) * 2,
        mem_used_mb=(60_000.0,) * 2,
        mem_total_mb=(85_000.0,) * 2,
        temp_c=(61.0,) * 2,
        mem_temp_c=(70.0,) * 2,
        throttle=(4,) * 2,
    )
    assert reading.capability == (
        "gpu.energy",
        "gpu.power",
        "gpu.limit",
        "gpu.clock",
        "gpu.utilisation",
        "gpu.memory",
        "gpu.temperature",
        "gpu.throttle",
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (12, "install the NVIDIA driver"),
        (9, "driver is not loaded"),
        (4, "forbidden to this user"),
        (18, "differ in version"),
        (999, "NVML cannot be used"),
    ],
)
def test_absent_or_forbidden_is_an_answer_not_a_crash(clock: Clock, code: int, words: str) -> None:
    lib = FakeNvml()
    lib.init_error = code
    source = NvmlSource(lib, monotonic=clock)
    probe = source.probe()
    assert probe.present is False
    assert words in (probe.reason or "")
    assert source.read(1).gpu is None


def test_a_driver_without_gpus_is_absent(clock: Clock) -> None:
    probe = NvmlSource(FakeNvml(0), monotonic=clock).probe()
    assert (probe.present, probe.reason) == (
        False,
        "the NVIDIA driver is loaded and sees no GPU; check `nvidia-smi -L`",
    )


def test_a_driver_loaded_later_is_found_with_growing_pauses(clock: Clock) -> None:
    lib = FakeNvml()
    lib.init_error = 9
    source = NvmlSource(lib, monotonic=clock)
    for _ in range(2000):
        clock.now += 0.5
        source.read(1)
    assert lib.inits <= 25
    lib.init_error = None
    clock.now += BACKOFF_MAX_S
    assert gpus(source).uuid == UUIDS[:2]


@pytest.mark.parametrize("how", ["missing", "not_supported"])
def test_what_a_driver_does_not_offer_is_null_and_the_rest_goes_on(clock: Clock, how: str) -> None:
    lib = FakeNvml()
    getattr(lib, how).update({"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues"})
    source = NvmlSource(lib, monotonic=clock)
    found = gpus(source)
    assert (found.energy_mj, found.mem_temp_c, found.power_w) == (None, None, (412.345, 412.345))
    assert "gpu.energy" not in source.read(1).capability


def test_newer_calls_fall_back_to_older_ones(clock: Clock) -> None:
    lib = FakeNvml()
    lib.missing = {"nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"}
    found = gpus(NvmlSource(lib, monotonic=clock))
    assert (found.temp_c, found.throttle) == ((62.0, 62.0), (8, 8))


def test_memory_without_a_sensor_has_no_temperature(clock: Clock) -> None:
    lib = FakeNvml()
    lib.changed["nvmlDeviceGetFieldValues"] = (SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=0)),)
    assert gpus(NvmlSource(lib, monotonic=clock)).mem_temp_c is None
    lib.changed["nvmlDeviceGetFieldValues"] = (SimpleNamespace(nvmlReturn=3, value=None),)
    assert gpus(NvmlSource(lib, monotonic=clock)).mem_temp_c is None


def test_a_lost_gpu_gives_nulls_and_the_others_go_on(clock: Clock) -> None:
    lib = FakeNvml(3)
    source = NvmlSource(lib, monotonic=clock)
    gpus(source)
    lib.gpu_error[1] = lib.NVML_ERROR_GPU_IS_LOST
    found = gpus(source)
    assert found.uuid == UUIDS[:3]
    assert found.state == ("ok", "lost", "ok")
    assert found.power_w == (412.345, None, 412.345)
    clock.now += 2
    assert gpus(source).state == ("ok", "lost", "ok")
    del lib.gpu_error[1]
    clock.now += BACKOFF_MAX_S
    assert gpus(source).state == ("ok", "ok", "ok")


def test_a_reloaded_driver_gets_new_handles(clock: Clock) -> None:
    lib = FakeNvml()
    source = NvmlSource(lib, monotonic=clock)
    gpus(source)
    lib.dead_handles = True
    clock.now += 5
    found = gpus(source)
    assert (found.state, found.power_w) == (("lost", "lost"), None)
    clock.now += 5
    assert gpus(source).state == ("ok", "ok")


def test_a_driver_that_unloads_keeps_the_known_gpus_as_lost(clock: Clock) -> None:
    lib = FakeNvml()
    source = NvmlSource(lib, monotonic=clock)
    gpus(source)
    lib.dead_handles, lib.init_error = True, 9
    clock.now += 5
    gpus(source)
    clock.now += 5
    found = gpus(source)
    assert (found.uuid, found.state) == (UUIDS[:2], ("lost", "lost"))


def test_a_gpu_that_appears_later_gets_a_place_of_its_own(clock: Clock) -> None:
    lib = FakeNvml(2)
    lib.gpu_error[0] = lib.NVML_ERROR_GPU_IS_LOST
    source = NvmlSource(lib, monotonic=clock)
    assert gpus(source).uuid == (UUIDS[1],)
    assert "GPU 0 gives no handle" in (source.probe().reason or "")
    lib.gpu_error = {1: lib.NVML_ERROR_GPU_IS_LOST}
    gpus(source)
    clock.now += BACKOFF_MAX_S
    found = gpus(source)
    assert (found.uuid, found.state) == ((UUIDS[1], UUIDS[0]), ("lost", "ok"))


def test_a_forbidden_gpu_says_so(clock: Clock) -> None:
    lib = FakeNvml(2)
    source = NvmlSource(lib, monotonic=clock)
    gpus(source)
    lib.gpu_error[1] = lib.NVML_ERROR_NO_PERMISSION
    found = gpus(source)
    assert found.state == ("ok", "forbidden")
    assert found.name == ("NVIDIA H100 80GB HBM3", None)


def test_a_passing_failure_is_null_this_time_only(clock: Clock) -> None:
    lib = FakeNvml(1)
    source = NvmlSource(lib, monotonic=clock)
    gpus(source)
    lib.gpu_error[0] = lib.NVML_ERROR_UNKNOWN
    found = gpus(source)
    assert (found.state, found.power_w) == (("ok",), None)
    lib.gpu_error.clear()
    assert gpus(source).power_w == (412.345,)


def test_closing_twice_is_fine(clock: Clock) -> None:
    lib = FakeNvml()
    source = NvmlSource(lib, monotonic=clock)
    source.probe()
    source.close()
    source.close()
    assert lib.open is False
