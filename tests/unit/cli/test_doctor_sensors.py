"""`eo doctor sensors`: recordings of any spelling, sensors here, and what cannot be judged."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from agents.cli import doctor_sensors
from agents.cli.base import FAILED, USAGE, EoError
from agents.cli.main import main
from agents.cli.sensor_archive import load
from agents.node.sources.base import Probe, Reading
from streams.contract.records import DomainColumns, GpuColumns

DATA = Path(__file__).resolve().parents[2] / "data" / "gpu_sensor"
T0 = 1_700_000_000.0


def test_the_recorded_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "sensors", "--archive", str(DATA), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["run"]: row for row in found["sensors"]}
    assert set(rows) == {"A100_5050", "A100_transient"}
    pulsed, steady = rows["A100_5050"]["judged"][0], rows["A100_transient"]["judged"][0]
    assert (pulsed["load"], pulsed["calibrated_on"], pulsed["quality"]) == ("pulsed", "A100_transient", "estimated")
    assert pulsed["estimate_by_second_ratio"] < 0.5 * pulsed["naive_by_second_ratio"]
    assert (steady["load"], steady["calibrated_on"]) == ("steady", "A100_5050")
    assert abs(steady["estimate_error_ratio"]) < 0.02
    assert rows["A100_5050"]["period_s"] == pytest.approx(0.1012, abs=0.001)


# --- recordings of other spellings -----------------------------------------------------------------------------------


def times(n: int = 200, step_s: float = 0.05) -> np.ndarray[Any, Any]:
    return T0 + step_s * np.arange(n)


def write(path: Path, **columns: Any) -> None:
    table = pa.table({name.replace("__", " ["): list(values) for name, values in columns.items()})
    parquet.write_table(table, path) if path.suffix == ".parquet" else csv.write_csv(table, path)


@pytest.mark.parametrize(
    ("columns", "watts"),
    [
        ({"timestamp": times(), "power_w": [100.0] * 200}, 100.0),
        ({"t_ms": times() * 1e3, "power_mw": [100_000.0] * 200}, 100.0),
        ({"time": times() * 1e9, "power.draw [W]": ["46.19 W"] * 200}, 46.19),
        ({"timestamp": times(), "power.limit [W]": [300.0] * 200, "power_draw_W": [90.0] * 200}, 90.0),
        ({"timestamp": times(), "power_draw_instant_W": [1.0] * 200, "power_draw_W": [90.0] * 200}, 90.0),
        ({"timestamp": ["2023/12/18 17:01:44.300", "2023/12/18 17:01:45.300"], "power": ["1 W", "1 W"]}, 1.0),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_readings_of_any_spelling(tmp_path: Path, columns: dict[str, Any], watts: float, ending: str) -> None:
    write(tmp_path / f"h100_run{ending}", **columns)
    (run,) = load(tmp_path)
    assert (run.name, run.board) == ("h100_run", "h100")
    assert float(np.nanmean(run.power_w)) == pytest.approx(watts)
    assert 0.0 < run.time_s[1] - run.time_s[0] <= 1.0


def test_values_that_are_no_numbers_are_unknown(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", timestamp=times(4), power=["[Unknown Error]", "50 W", "N/A", "60 W"])
    (run,) = load(tmp_path)
    assert np.isnan(run.power_w).tolist() == [True, False, True, False]


def test_milliwatts_under_a_label_of_watts_are_told(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", timestamp=times(), power_w=[250_000.0] * 100 + [260_000.0] * 100)
    checks, _ = doctor_sensors.archive(tmp_path)
    assert any("in milliwatts it would be 255 W" in check.found for check in checks)


def test_absurd_values_are_unknown(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", timestamp=times(4), power_w=[1e300, -5.0, 50.0, 60.0])
    (run,) = load(tmp_path)
    assert np.isnan(run.power_w).tolist() == [True, True, False, False]


def test_a_busy_ratio_and_a_counter_are_found(tmp_path: Path) -> None:
    write(
        tmp_path / "x.parquet", timestamp=times(), power_w=[100.0] * 200, mem_util_pct=[1] * 200, util_pct=[50] * 200,
        energy_mj=(100_000 * (times() - T0)).astype(int),
    )  # fmt: skip
    (run,) = load(tmp_path)
    assert run.busy_ratio is not None
    assert run.counter_j is not None
    assert (run.busy_ratio[0], run.counter_j[-1]) == (0.5, pytest.approx(995.0))
    checks, _ = doctor_sensors.archive(tmp_path)
    found = next(check for check in checks if check.name == "x counter")
    assert (found.verdict, found.found) == (
        "ok",
        "Counter and integrated power agree within 0.0%; the counter counts all the time.",
    )


@pytest.mark.parametrize(("shift_h", "told"), [(0, None), (-8, "-8 h"), (5.5, "+5.5 h")])
def test_clocks_in_other_time_zones(tmp_path: Path, shift_h: float, told: str | None) -> None:
    write(tmp_path / "x_nvidia_smi.csv", t_s=times() + shift_h * 3600, power_w=[100.0] * 200)
    write(tmp_path / "x_external_meter.csv", t_s=times(4000, 0.0025), power_w=[105.0] * 4000)
    (run,) = load(tmp_path)
    assert run.meter is not None
    assert run.time_s[0] == pytest.approx(T0)
    assert [told in note for note in run.notes] == ([] if told is None else [True])


def test_a_meter_of_another_day_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "x_nvidia_smi.csv", t_s=times() + 90_000, power_w=[100.0] * 200)
    write(tmp_path / "x_meter.csv", t_s=times(4000, 0.0025), power_w=[105.0] * 4000)
    checks, _ = doctor_sensors.archive(tmp_path)
    assert any("no time in common: the meter is left out" in check.found for check in checks)


def test_a_frozen_sensor_is_called_so(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", timestamp=times(2000), power=["46.19 W"] * 2000)
    checks, _ = doctor_sensors.archive(tmp_path)
    (warned,) = (check for check in checks if check.verdict == "warn")
    assert warned.found.startswith("it reads 46.19 W without any change for 100 s")


@pytest.mark.parametrize(
    "junk", [b"", b"\x00\xff" * 500, b"a,b\n1,2\n", b"timestamp,power\n1,x\n2,y\n", b"timestamp\n"]
)
def test_files_that_are_no_readings_are_named_and_stop_nothing(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "bad.csv").write_bytes(junk)
    with pytest.raises(EoError, match="no readings of a power sensor among 1 Parquet and CSV files"):
        load(tmp_path)
    write(tmp_path / "good.csv", timestamp=times(), power_w=[100.0] * 200)
    assert [run.name for run in load(tmp_path)] == ["good"]


def test_a_folder_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "sensors", "--archive", "/nowhere"]) == FAILED
    assert "/nowhere is no folder; give one with recordings" in capsys.readouterr().err
    assert main(["doctor", "kafka", "--archive", "/nowhere"]) == USAGE
    assert "--archive belongs to `eo doctor sensors`" in capsys.readouterr().err


# --- live ------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeSource:
    """Readings by a function of time. Faults: `absent`, `broken`."""

    def __init__(self, name: str, clock: Clock, power_w: float, counter_factor: float = 1.0, **faults: bool) -> None:
        self.name, self._clock, self._power_w, self._factor, self._faults = name, clock, power_w, counter_factor, faults

    def probe(self) -> Probe:
        return Probe(False, "no such device") if self._faults.get("absent") else Probe(True)

    def read(self, now_ns: int) -> Reading:
        if self._faults.get("broken"):
            raise RuntimeError("driver fell over")
        step = int(self._clock.now * 10)
        power = self._power_w + step % 7
        energy = int(self._clock.now * self._power_w * 1e3 * self._factor)
        if self.name == "redfish":
            domains = DomainColumns(
                name=("gpu-0",), kind=("gpu",), source=("redfish",), quality=("measured",), power_w=(power,),
                gpu_uuid=("GPU-0",),
            )  # fmt: skip
            return Reading(source=self.name, ts_ns=now_ns, quality="measured", domains=domains)
        gpu = GpuColumns(uuid=("GPU-0",), power_w=(power,), energy_mj=(energy,), limit_w=(700.0,))
        return Reading(source=self.name, ts_ns=now_ns, quality="measured", gpu=gpu)

    def close(self) -> None:
        return None


def looked_at(clock: Clock, *sources: FakeSource) -> dict[str, tuple[str, str]]:
    checks, _ = doctor_sensors.live(sources, monotonic=clock, sleep=clock.sleep)
    return {check.name: (check.verdict, check.found) for check in checks}


def test_a_sensor_here_has_its_period_and_its_counter_tested() -> None:
    clock = Clock()
    found = looked_at(clock, FakeSource("nvml", clock, 400.0))
    assert found["GPU-0"][0] == "ok"
    assert "period 100 ms" in found["GPU-0"][1]
    assert "Counter and integrated power agree within" in found["GPU-0"][1]


@pytest.mark.parametrize(
    ("factor", "words"), [(0.0, "The counter stood still for"), (0.001, "The counter is 1,000 times too small")]
)
def test_a_counter_that_cannot_be_believed(factor: float, words: str) -> None:
    clock = Clock()
    assert words in looked_at(clock, FakeSource("nvml", clock, 400.0, factor))["GPU-0"][1]


class MovingSource(FakeSource):
    """A GPU whose load comes and goes every 0.7 s; its power is the mean of the last second, its counter counts."""

    def read(self, now_ns: int) -> Reading:
        now = np.floor(self._clock.now * 10) / 10
        grid = np.arange(0.0, now - 100.0 + 1.5, 0.01)
        drawn = np.where((grid // 0.7) % 2 == 1, 320.0, 80.0)
        joules = np.cumsum(drawn) * 0.01
        power = float(np.round(drawn[-100:].mean(), 2))
        gpu = GpuColumns(uuid=("GPU-0",), power_w=(power,), energy_mj=(int(joules[-1] * 1e3),), limit_w=(700.0,))
        return Reading(source=self.name, ts_ns=now_ns, quality="measured", gpu=gpu)


def test_a_sensor_here_shows_its_window_while_the_load_moves() -> None:
    clock = Clock()
    checks, rows = doctor_sensors.live(
        [MovingSource("nvml", clock, 0.0)], seconds=8.0, monotonic=clock, sleep=clock.sleep
    )
    assert rows[0]["window_s"] == pytest.approx(1.0, rel=0.1)
    assert "fit to the energy counter" in checks[0].found


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["kafka", "--seconds", "5"], "--seconds belongs to `eo doctor sensors` of this machine"),
        (["sensors", "--seconds", "0"], "--seconds 0 is out of bounds; give 1 to 600"),
        (["sensors", "--seconds", "nan"], "--seconds nan is out of bounds; give 1 to 600"),
    ],
)
def test_times_to_watch_that_cannot_be(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments]) == USAGE
    assert text in capsys.readouterr().err


def test_two_sources_of_one_gpu_are_compared() -> None:
    clock = Clock()
    agree = looked_at(clock, FakeSource("nvml", clock, 400.0), FakeSource("redfish", clock, 405.0))
    assert agree["GPU-0 believed"] == ("ok", "All agree; nvml is nearest to the device.")
    apart = looked_at(clock, FakeSource("nvml", clock, 400.0), FakeSource("redfish", clock, 600.0))
    assert apart["GPU-0 believed"][0] == "warn"
    assert "nvml 403 W and redfish 603 W disagree" in apart["GPU-0 believed"][1]


def test_absent_and_broken_sources_stop_no_other() -> None:
    clock = Clock()
    sources = (
        FakeSource("dcgm", clock, 1.0, absent=True), FakeSource("ipmi", clock, 1.0, broken=True),
        FakeSource("nvml", clock, 400.0),
    )  # fmt: skip
    found = looked_at(clock, *sources)
    assert found["dcgm"] == ("note", "nothing here: no such device")
    assert found["ipmi"] == ("warn", "cannot be read: driver fell over")
    assert found["GPU-0"][0] == "ok"


def test_nothing_here_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(time, "sleep", lambda _s: None)
    monkeypatch.setattr(doctor_sensors, "sources_here", lambda _env: [])
    assert main(["doctor", "sensors"]) == 0
    assert "no source here gives power; see `eo read list`" in capsys.readouterr().out
    with pytest.raises(EoError, match="EO_NODE_SORCES"):
        monkeypatch.undo()
        doctor_sensors.sources_here({"EO_NODE_SORCES": "nvml"})
