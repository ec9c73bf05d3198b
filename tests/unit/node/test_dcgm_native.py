"""DCGM's own library: layout against NVIDIA's headers, readings through the C boundary, every fault by name."""

from __future__ import annotations

import ctypes
import json
import logging
import subprocess
from collections.abc import Iterator

import pytest

from agents.cli.base import DONE, FAILED
from agents.cli.main import main
from agents.node.errors import SourceError
from agents.node.sources import dcgm_abi as abi
from agents.node.sources import registry
from agents.node.sources.base import Reading
from agents.node.sources.dcgm_native import DcgmNativeSource
from tests.fakes.dcgm import driver

FIRST, SECOND = "GPU-00000000-0000-0000-0000-000000000000", "GPU-00000001-0000-0000-0000-000000000000"
ENDED = ("open", "groups", "field_groups", "watches", "inits", "embedded", "callback")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake() -> driver.Fake:
    try:
        return driver.Fake()
    except driver.StandInMissing as reason:
        pytest.skip(str(reason))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(fake: driver.Fake, clock: Clock) -> Iterator[DcgmNativeSource]:
    made = DcgmNativeSource(library=fake.path, monotonic=clock)
    yield made
    made.close()
    # Whatever happened, nothing of ours is left in the host engine.
    assert {what: fake.count(what) for what in ENDED} == dict.fromkeys(ENDED, 0)


def missing(reading: Reading) -> dict[str, str]:
    return dict(reading.missing)


# --- the binary interface --------------------------------------------------------------------------------------------


def test_structures_and_constants_are_those_of_the_headers(fake: driver.Fake) -> None:
    done = subprocess.run([driver.built("layout.c")], capture_output=True, text=True, timeout=60, check=True)
    lines = dict(line.split() for line in done.stdout.splitlines())
    assert len(lines) > 55
    for name, value in lines.items():
        struct, _, member = name.partition(".")
        mine = getattr(abi, struct)
        if isinstance(mine, int):
            assert mine == int(value), name
        elif member:
            assert getattr(mine, member).offset == int(value), name
        else:
            assert ctypes.sizeof(mine) == int(value), name


def test_every_number_that_our_structures_read_is_in_the_headers() -> None:
    text = (driver.HEADERS / "dcgm_structs.h").read_text()
    for code in abi.STATUS_TEXTS:
        assert f"= {code}," in text, code
    for bit in abi.HEALTH_SYSTEMS:
        assert f"= {bit:#x}," in text, bit


# --- readings --------------------------------------------------------------------------------------------------------


def test_one_reading_of_every_field(source: DcgmNativeSource, fake: driver.Fake) -> None:
    fake.set(1, 155, 101.5)  # the stand-in answers its GPUs in reverse, as the real one may
    reading = source.read(77)
    gpu = reading.gpu
    assert gpu is not None
    assert (reading.ts_ns, reading.quality, gpu.uuid) == (77, "measured", (FIRST, SECOND))
    assert gpu.name == ("NVIDIA H100 80GB HBM3",) * 2
    assert (gpu.power_w, gpu.power_instant_w, gpu.energy_mj) == ((412.5, 101.5), (430.25, 430.25), (987654321,) * 2)
    assert (gpu.limit_w, gpu.limit_requested_w) == ((650.0, 650.0), (700.0, 700.0))
    assert (gpu.limit_min_w, gpu.limit_max_w, gpu.limit_default_w) == ((200.0,) * 2, (700.0,) * 2, (700.0,) * 2)
    assert (gpu.sm_mhz, gpu.sm_max_mhz, gpu.mem_mhz, gpu.throttle) == ((1755,) * 2, (1980,) * 2, (2619,) * 2, (4, 4))
    assert (gpu.util_ratio, gpu.mem_util_ratio, gpu.temp_c, gpu.mem_temp_c) == (
        (0.87,) * 2, (0.4,) * 2, (61.0,) * 2, (70.0,) * 2,
    )  # fmt: skip
    assert gpu.mem_used_mb == (pytest.approx(61000 * 1.048576),) * 2
    assert (gpu.xid, gpu.state) == ((0, 0), ("ok", "ok"))
    assert gpu.sm_active_ratio is None
    assert missing(reading)["gpus.sm_active_ratio"] == "profiling is off; dcgm_profiling = 1 turns it on"
    assert {"gpu.energy", "gpu.power", "gpu.health", "gpu.policy"} <= set(reading.capability)


def test_profiling_only_when_asked_and_its_refusal_harms_nothing(fake: driver.Fake) -> None:
    asked = DcgmNativeSource(library=fake.path, profiling=True)
    gpu = asked.read(1).gpu
    assert gpu is not None
    assert (gpu.sm_active_ratio, gpu.dram_active_ratio) == ((0.8, 0.8), (0.25, 0.25))
    asked.close()
    fake.fault("watch_profiling", -29)
    refused = DcgmNativeSource(library=fake.path, profiling=True)
    reading = refused.read(1)
    assert reading.gpu is not None
    assert (reading.gpu.power_w, reading.gpu.sm_active_ratio) == ((412.5, 412.5), None)
    assert "the host engine must run as root for it" in missing(reading)["gpus.sm_active_ratio"]
    refused.close()


def test_an_older_engine_that_does_not_know_the_newest_fields(source: DcgmNativeSource, fake: driver.Fake) -> None:
    fake.max_field(1500)
    reading = source.read(1)
    assert reading.gpu is not None
    assert (reading.gpu.power_w, reading.gpu.energy_mj) == ((412.5, 412.5), (987654321,) * 2)


def test_newer_fields_stand_in_where_the_older_are_gone(source: DcgmNativeSource, fake: driver.Fake) -> None:
    fake.status(0, 156, abi.NOT_SUPPORTED)
    fake.set(0, 1611, 12.5)
    fake.status(0, 100, abi.NOT_SUPPORTED)
    fake.set(0, 1603, 1_980_000_000)
    gpu = source.read(1).gpu
    assert gpu is not None
    assert (gpu.energy_mj, gpu.sm_mhz) == ((12500, 987654321), (1980, 1755))


@pytest.mark.parametrize(
    ("field", "value", "status", "column", "reason"),
    [
        (155, 140737488355330.0, 0, "power_w", "not supported for field 155"),
        (156, 0x7FFFFFFFFFFFFFF1, 0, "energy_mj", "not found for field 156"),
        (150, 0x7FFFFFFFFFFFFFF3, 0, "temp_c", "not permitted for field 150"),
        (140, 0x7FFFFFF0, 0, "mem_temp_c", "blank for field 140"),
        (155, 160000.0, 0, "power_w", "160000 is no plausible value"),
        (164, 0, abi.NO_DATA, "limit_w", "no data yet (DCGM code -14)"),
        (164, 0, abi.NO_PERMISSION, "limit_w", "no permission (DCGM code -17)"),
        (164, 0, -4242, "limit_w", "error (DCGM code -4242)"),
    ],
)
def test_blanks_and_refused_values_are_null_with_a_reason(
    field: int, value: float, status: int, column: str, reason: str, source: DcgmNativeSource, fake: driver.Fake
) -> None:
    fake.set(0, 157, 0.0 if field == 155 else 430.25)
    fake.status(0, 157, abi.NOT_SUPPORTED)
    fake.set(0, field, value)
    fake.status(0, field, status)
    reading = source.read(1)
    assert getattr(reading.gpu, column)[0] is None
    assert getattr(reading.gpu, column)[1] is not None
    assert reason in missing(reading)[f"gpus[{FIRST}].{column}"]


def test_a_lost_gpu_is_lost_and_the_other_is_well(source: DcgmNativeSource, fake: driver.Fake) -> None:
    for field in driver.TYPICAL:
        fake.status(0, field, abi.GPU_IS_LOST)
    gpu = source.read(1).gpu
    assert gpu is not None
    assert (gpu.state, gpu.power_w) == (("lost", "ok"), (None, 412.5))


def test_a_gpu_that_the_engine_leaves_out_has_no_values(source: DcgmNativeSource, fake: driver.Fake) -> None:
    source.read(1)
    fake.fault("values_short", 1)
    reading = source.read(2)
    assert reading.gpu is not None
    assert reading.gpu.power_w == (None, 412.5)


def test_a_gpu_without_a_uuid_is_named_and_left_out(source: DcgmNativeSource, fake: driver.Fake) -> None:
    fake.uuid(1, "<<<NOT_SUPPORTED>>>")
    reading = source.read(1)
    assert reading.gpu is not None
    assert reading.gpu.uuid == (FIRST,)
    assert "it gives no UUID" in missing(reading)["gpus[DCGM 1]"]


def test_only_the_instant_power_stands_in_and_says_so(source: DcgmNativeSource, fake: driver.Fake) -> None:
    for gpu in (0, 1):
        fake.status(gpu, 155, abi.NOT_SUPPORTED)
    reading = source.read(1)
    assert reading.gpu is not None
    assert reading.gpu.power_w == (430.25, 430.25)
    assert missing(reading)["gpus.power_w"].startswith("warning: no averaged power")


# --- events ----------------------------------------------------------------------------------------------------------


def test_health_and_policy_are_events(
    source: DcgmNativeSource, fake: driver.Fake, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    source.read(1)
    clock.now = 11.0
    fake.incident(1, 0x100, 20, "power brake\nasserted")
    for gpu in (0, 1):
        fake.status(gpu, 230, abi.NO_DATA)
    assert fake.policy(0, abi.POLICY_XID, 79) == 0
    assert fake.policy(1, 0x8, 95) == 0
    with caplog.at_level(logging.WARNING):
        reading = source.read(2)
    assert reading.gpu is not None
    assert (reading.gpu.xid, reading.gpu.state) == ((79, None), ("lost", "ok"))
    assert missing(reading)[f"gpus[{SECOND}].health"] == "warning: health failure of power: power brake asserted"
    assert [record.message for record in caplog.records] == [
        f"{FIRST}: policy: Xid (79)",
        f"{SECOND}: policy: temperature (95)",
        f"{SECOND}: health failure of power: power brake asserted",
    ]
    clock.now = 22.0
    assert f"gpus[{SECOND}].health" not in missing(source.read(3))


def test_without_health_and_policy_the_readings_are_the_same(source: DcgmNativeSource, fake: driver.Fake) -> None:
    fake.fault("health_set", abi.NO_PERMISSION)
    fake.fault("policy", abi.NOT_SUPPORTED)
    reading = source.read(1)
    assert reading.gpu is not None
    assert reading.gpu.power_w == (412.5, 412.5)
    assert "no permission" in missing(reading)["health"]
    assert "not supported" in missing(reading)["policy"]
    assert not {"gpu.health", "gpu.policy"} & set(reading.capability)


# --- the session -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("init", -7, "dcgmInit: initialisation error (DCGM code -7); is nv-hostengine running and well?"),
        ("connect", abi.CONNECTION_NOT_VALID, "the host engine is not reachable (DCGM code -21); start nv-hostengine"),
        ("connect", abi.TIMEOUT, "the host engine at 127.0.0.1:5555: timed out (DCGM code -11)"),
        ("version", abi.VER_MISMATCH, "differ in version (DCGM code -12); install the same DCGM 4 for both"),
        ("devices", abi.NO_PERMISSION, "the list of GPUs is forbidden to this user (DCGM code -17)"),
        ("group", -24, "a group of all GPUs: error (DCGM code -24)"),
        ("field_group", abi.BADPARAM, "watches none of our fields: this host engine does not know it: bad parameter"),
        ("watch", abi.NO_PERMISSION, "watches none of our fields: the host engine does not watch it: no permission"),
    ],
)
def test_a_session_that_does_not_come_about_is_one_sentence(
    fault: str, status: int, words: str, source: DcgmNativeSource, fake: driver.Fake
) -> None:
    fake.fault(fault, status)
    probe = source.probe()
    assert not probe.present
    assert words in (probe.reason or "")


def test_a_lost_session_is_made_again_with_growing_pauses(
    source: DcgmNativeSource, fake: driver.Fake, clock: Clock
) -> None:
    source.read(1)
    fake.fault("values", abi.CONNECTION_NOT_VALID)
    fake.fault("connect", abi.CONNECTION_NOT_VALID)
    for clock.now in (1.0, 1.5, 2.5, 3.0, 3.6):
        with pytest.raises(SourceError, match="is not reachable"):
            source.read(1)
    assert fake.count("connects") == 1
    fake.fault("values", 0)
    fake.fault("connect", 0)
    clock.now = 4.8
    with pytest.raises(SourceError, match="is not reachable"):  # the pause is two seconds by now
        source.read(1)
    clock.now = 5.7
    assert source.read(1).gpu is not None
    assert fake.count("connects") == 2


def test_an_engine_that_stands_still_is_no_reading(source: DcgmNativeSource, fake: driver.Fake, clock: Clock) -> None:
    fake.stand_still()
    for clock.now in (0.0, 29.0):
        assert source.read(1).gpu is not None
    clock.now = 31.0
    with pytest.raises(SourceError, match=r"no new value for 31 s \(bound 30 s\); it stands still"):
        source.read(1)
    fake.stand_still(False)
    assert source.read(1).gpu is not None


def test_a_value_that_is_old_beside_new_ones_is_null(source: DcgmNativeSource, fake: driver.Fake) -> None:
    for field in (155, 164, 230):
        fake.old(0, field)
    reading = source.read(1)
    assert reading.gpu is not None
    # The engine keeps a limit and an Xid since they came; its watts it samples every second.
    assert (reading.gpu.power_w, reading.gpu.limit_w, reading.gpu.xid) == ((430.25, 412.5), (650.0, 650.0), (0, 0))
    assert reading.gpu.power_instant_w == (430.25, 430.25)
    assert missing(reading)[f"gpus[{FIRST}].power_w"].startswith("warning: no averaged power")


def test_gpus_that_come_and_go_are_found(source: DcgmNativeSource, fake: driver.Fake, clock: Clock) -> None:
    source.read(1)
    fake.gpus(1)
    clock.now = 61.0
    with pytest.raises(SourceError, match="its list of GPUs has changed"):
        source.read(1)
    clock.now = 63.0
    gpu = source.read(1).gpu
    assert gpu is not None
    assert gpu.uuid == (FIRST,)


def test_no_gpu_is_absent(source: DcgmNativeSource, fake: driver.Fake) -> None:
    fake.gpus(0)
    assert source.probe().reason == "the host engine at 127.0.0.1:5555 lists no GPU; check `dcgmi discovery -l`"


@pytest.mark.parametrize(
    ("address", "told", "unix"),
    [("10.0.0.7:5556", "10.0.0.7:5556", 0), ("unix:/run/dcgm.sock", "/run/dcgm.sock", 1), ("unix:///a", "/a", 1)],
)
def test_addresses(address: str, told: str, unix: int, fake: driver.Fake) -> None:
    source = DcgmNativeSource(address, library=fake.path)
    source.read(1)
    assert (fake.address(), fake.count("unix"), fake.count("timeout_ms")) == (told, unix, 2000)
    assert fake.count("embedded") == 0
    source.close()


def test_embedded_only_when_asked(fake: driver.Fake) -> None:
    source = DcgmNativeSource("embedded", library=fake.path)
    assert source.read(1).gpu is not None
    assert (fake.count("embedded"), fake.count("connects")) == (1, 0)
    source.close()
    assert {what: fake.count(what) for what in ENDED} == dict.fromkeys(ENDED, 0)


# --- without DCGM ----------------------------------------------------------------------------------------------------


def test_an_absent_library_is_absent() -> None:
    assert "/nowhere/libdcgm.so.4 is not here; install DCGM 4, or go on without" in (
        DcgmNativeSource(library="/nowhere/libdcgm.so.4").probe().reason or ""
    )


def test_another_library_is_no_dcgm_4() -> None:
    name = "libc.so.6"
    assert "lacks a function of DCGM 4" in (DcgmNativeSource(library=name).probe().reason or "")


def test_eo_read_prints_it(
    fake: driver.Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = registry.SOURCES["dcgm-native"]
    monkeypatch.setitem(
        registry.SOURCES, "dcgm-native", registry.Entry(entry.factory, "", entry.takes, once={"library": fake.path})
    )
    assert main(["read", "dcgm_native", "10.1.1.1:5555", "--json"]) == DONE
    assert fake.address() == "10.1.1.1:5555"
    found = json.loads(capsys.readouterr().out)
    assert [(g["uuid"], g["power_w"], g["quality"]) for g in found["gpus"]] == [
        (FIRST, 412.5, "measured"),
        (SECOND, 412.5, "measured"),
    ]
    fake.fault("connect", abi.CONNECTION_NOT_VALID)
    assert main(["read", "dcgm-native"]) == FAILED
    assert "127.0.0.1:5555: the host engine is not reachable" in capsys.readouterr().err
