"""`eo agent` and `eo read` in this process: output, exit codes, one-sentence refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli.base import DONE, FAILED, USAGE
from agents.cli.main import main
from agents.node.spool import Spool
from streams.contract import codec
from streams.contract.records import NodeTelemetry

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
        (["read", "dcgm"], USAGE, "source 'dcgm' does not exist; choose among nvml, procfs, replay"),
        (["read", "replay"], USAGE, "source replay needs a recording: eo read replay FILE"),
        (["read", "nvml", "x"], USAGE, "source nvml takes no path, got 'x'"),
        (["read", "procfs", "/nowhere"], FAILED, "/nowhere/proc/stat cannot be read"),
        (["read", "replay", "/nowhere.jsonl"], FAILED, "recording /nowhere.jsonl cannot be read"),
        (["agent", "--once", "--source", "dcgm"], USAGE, "source 'dcgm' does not exist"),
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
