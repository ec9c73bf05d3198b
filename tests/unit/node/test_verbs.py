"""`eo agent` and `eo read` in this process: output, exit codes, one-sentence refusals."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from agents.cli.base import DONE, FAILED, USAGE
from agents.cli.main import main
from agents.node.sources import registry
from agents.node.sources.replay import ReplaySource
from agents.node.spool import Spool
from streams.contract import codec
from streams.contract.records import DomainColumns, NodeTelemetry, SensorColumns
from tests.fakes.sources import FakeSource, gpu_columns

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))


def test_reads_a_recorded_host_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "procfs", str(DATA / "procfs/v2"), "--json"]) == DONE
    record = codec.decode(NodeTelemetry, capsys.readouterr().out.encode())
    assert record.host is not None
    assert (record.host.load1, record.source, record.quality) == (0.52, ("procfs",), "measured")


def test_reads_as_a_table_where_unknown_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "procfs", str(DATA / "procfs/v2")]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert "load1           0.52" in lines
    assert "cpu_power_w     -" in lines
    assert any(line.startswith("/system.slice/kafka.service") for line in lines)


def test_a_reading_kept_as_json_can_be_replayed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    for _ in range(2):
        assert main(["read", "procfs", str(DATA / "procfs/v2"), "--json"]) == DONE
    path.write_text(capsys.readouterr().out)
    assert main(["read", "replay", str(path), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["host"]["load1"] == 0.52


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["read", "dcmg"], USAGE, "source 'dcmg' does not exist; "),
        (["read", "nvlm"], USAGE, "did you mean 'nvml'? choose among nvml, procfs, "),
        (["read", "replay"], USAGE, "source replay needs a recording: eo read replay FILE"),
        (["read", "nvml", "x"], USAGE, "source nvml takes no path, got 'x'"),
        (["read", "procfs", "/nowhere"], FAILED, "/nowhere/proc/stat cannot be read"),
        (["read", "replay", "/nowhere.jsonl"], FAILED, "recording /nowhere.jsonl cannot be read"),
        (["agent", "--once", "--source", "dcmg"], USAGE, "source 'dcmg' does not exist"),
        (["agent", "--once", "--source", "replay"], USAGE, "EO_NODE_REPLAY_PATH"),
    ],
)
def test_refusals(arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert words in told[0]


def test_a_misspelt_setting_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EO_NODE_SPOOL_MAX", "64")
    assert main(["agent", "--once"]) == USAGE
    assert "EO_NODE_SPOOL_MAX is no setting, did you mean EO_NODE_SPOOL_MAX_MB?" in capsys.readouterr().err


def test_an_unwritable_spool_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EO_NODE_SPOOL_DIR", str(tmp_path / "file"))
    assert main(["agent", "--once", "--source", "procfs"]) == FAILED
    assert "cannot be written (Not a directory); make it writable" in capsys.readouterr().err


def test_one_sample_without_a_broker_waits_in_the_spool(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["agent", "--once", "--source", "procfs", "--node", "n7"]) == DONE
    assert "n7: one sample of procfs, kept in the spool: no broker took it" in capsys.readouterr().out
    spool = Spool(tmp_path / "spool/n7/telemetry")
    assert [codec.decode(NodeTelemetry, r.value).node for r in spool.read(0, 9)] == ["n7"]
    spool.close()


def test_lists_all_sources_and_where_each_reads_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "list", "--json"]) == DONE
    found = {row["name"]: row["takes"] for row in json.loads(capsys.readouterr().out)}
    assert (found["procfs"], found["replay"], found["nvml"]) == (["root"], ["file"], [])
    assert main(["read", "list"]) == DONE
    assert "a recorded file of telemetry, at any speed" in capsys.readouterr().out


def _domains(names: tuple[str, ...], source: str = "rapl", **columns: Any) -> DomainColumns:
    size = len(names)
    kinds: dict[str, Any] = {"kind": ("other",) * size, "quality": ("measured",) * size, "source": (source,) * size}
    return DomainColumns(name=names, **{**kinds, **columns})


def _fake(monkeypatch: pytest.MonkeyPatch, source: FakeSource, takes: tuple[str, ...] = ()) -> None:
    module = ModuleType("fake_source_module")
    module.make = lambda **_options: source  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.SOURCES, "fake-one", registry.Entry("fake_source_module:make", "a fake", takes))


def test_domains_sensors_and_what_is_missing_as_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    domains = _domains(("package-0", "dram-0"), parent=(None, "package-0"), power_w=(80.5, None), energy_mj=(7, None))
    sensors = SensorColumns(name=("fan-1",), kind=("fan",), unit=("rpm",), source=("bmc",), value=(math.nan,))
    gpu = gpu_columns(2, power_w=(400.0, None))
    reasons = (("gpus.energy_mj", "not published"), ("domains[dram-0].power_w", "it cannot be read"))
    _fake(monkeypatch, FakeSource("fake", domains=domains, sensors=sensors, gpu=gpu, missing=reasons))
    assert main(["read", "fake_one", "--json"]) == DONE
    text = capsys.readouterr().out
    found = json.loads(text)
    assert [(d["name"], d["parent"], d["power_w"]) for d in found["domains"]] == [
        ("package-0", None, 80.5),
        ("dram-0", "package-0", None),
    ]
    assert found["sensors"] == [{"name": "fan-1", "kind": "fan", "unit": "rpm", "source": "bmc", "value": None}]
    assert [(g["power_w"], g["energy_mj"], g["quality"]) for g in found["gpus"]] == [
        (400.0, None, "measured"),
        (None, None, "measured"),
    ]
    assert found["missing"]["gpus.energy_mj"] == "not published"
    assert found["missing"]["domains[dram-0].power_w"] == "it cannot be read"
    assert "for others" in found["missing"][f"gpus[{gpu.uuid[1]}].power_w"]
    assert found["missing"]["gpus.limit_w"] == "source fake gives no limit_w here"
    path = tmp_path / "kept.json"
    path.write_text(text + json.dumps(found, separators=(",", ":")) + "\n")
    replay = ReplaySource(path, speed=0, loop=False)
    for _ in range(2):
        again = replay.read(1)
        assert again.domains == domains
        assert again.sensors == msgspec.structs.replace(sensors, value=(None,))
    assert main(["read", "fake-one"]) == DONE
    shown = capsys.readouterr().out
    assert "dram-0" in shown
    assert "it cannot be read" in shown


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "source fake-one has nothing to read: it answered without any value"),
        ({"missing": (("gpus", "no GPU in the text"),)}, "has nothing to read: gpus: no GPU in the text"),
        (
            {"domains": _domains(("a",), power_w=(1.0, 2.0))},
            "a faulty reading: the reading's column domains.power_w has 2",
        ),
        ({"gpu": gpu_columns(1, energy_mj=(2**63,))}, "9223372036854775808 in gpu.energy_mj does not fit into 64 bits"),
    ],
)
def test_nothing_to_read_is_one_sentence(
    parts: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fake(monkeypatch, FakeSource("fake", **parts))
    assert main(["read", "fake-one"]) == FAILED
    (told,) = capsys.readouterr().err.splitlines()
    assert words in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--root", "/x"], "source fake-one takes no --root; it takes --url URL or --file FILE"),
        (["--url", "http://h", "--file", "x"], "give one of --url, --file: a reading has one origin"),
        (["x", "--url", "http://h"], "give one of --url, --file: a reading has one origin"),
    ],
)
def test_a_reading_has_one_origin(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fake(monkeypatch, FakeSource("fake", gpu=gpu_columns(1)), ("url", "file"))
    assert main(["read", "fake-one", *arguments]) == USAGE
    assert words in capsys.readouterr().err
