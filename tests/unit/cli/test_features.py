"""`eo features` without a broker: lists, history from an archive, times, and the text of each refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli.base import EoError
from agents.cli.features import one_of, time_ns
from agents.cli.main import main
from models.features.registry import FEATURES
from tests.unit.store.makers import T0, S, archive, features

POWER = "power_w_mean_60s"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    records = [features(seq, {POWER: (100.0 + seq, None)}, uuid=("GPU-aa1", "GPU-ab2")) for seq in range(5)]
    archive(tmp_path / "archive", records)
    return tmp_path


def test_list_shows_every_registered_feature(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [view["name"] for view in listed] == [feature.name for feature in FEATURES]
    assert all(view["unit"] and view["ttl_s"] > 0 for view in listed)
    assert main(["features", "list"]) == 0
    assert POWER in capsys.readouterr().out


def test_history_as_json_and_as_text(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "history", "GPU-aa", POWER, "--json", "-n", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["gpu_uuid"], answer["feature"]) == ("GPU-aa1", POWER)
    assert [(row["window_end_ns"], row["value"]) for row in answer["values"]] == [
        (T0 + 3 * S, 103.0),
        (T0 + 4 * S, 104.0),
    ]
    assert main(["features", "history", "GPU-ab2", POWER]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["2026-01-01", "00:00:00.000", "-", "simulated", "n1"]
    assert len(lines) == 6


def test_history_between_two_times(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    between = ["--from", "2026-01-01T00:00:01Z", "--to", "2026-01-01 00:00:02", "--json"]
    assert main(["features", "history", "GPU-aa1", POWER, *between]) == 0
    assert [row["value"] for row in json.loads(capsys.readouterr().out)["values"]] == [101.0, 102.0]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["get"], 2, "name a GPU"),
        (["get", "GPU-aa1", "power"], 1, "'power' is not registered; there are power_w_mean_60s"),
        (["get", "GPU-aa1"], 1, "no broker"),
        (["list", "GPU-aa1"], 2, "takes no GPU"),
        (["history", "GPU-aa1"], 2, "name a GPU and a feature"),
        (["history", "GPU-a", POWER], 2, "2 GPUs begin with 'GPU-a', e.g. GPU-aa1 and GPU-ab2"),
        (["history", "GPU-zz", POWER], 1, "has no power_w_mean_60s of GPU GPU-zz in that time"),
        (["history", "GPU-aa1", "power"], 1, "'power' is not in the archive, which has"),
        (["history", "GPU-aa1", POWER, "--from", "yesterday"], 2, "'yesterday' is no time; write 15m"),
        (["history", "GPU-aa1", POWER, "--from", "1h", "--to", "2h"], 2, "--from 1h is later than --to 2h"),
        (["history", "GPU-aa1", POWER, "-n", "0"], 2, "--limit 0 is below 1"),
        (["history", "GPU-aa1", POWER, "--from", "1s"], 1, "has no features in that time"),
    ],
)
def test_refusals(data: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str) -> None:
    assert main(["features", *words]) == code
    assert text in capsys.readouterr().err


def test_history_of_an_empty_archive_says_what_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    assert main(["features", "history", "GPU-aa1", POWER]) == 1
    assert "run `eo worker` to fill it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", T0),
        ("90s", T0 - 90 * S),
        ("15m", T0 - 900 * S),
        ("2h", T0 - 7200 * S),
        ("1d", T0 - 86400 * S),
        ("2026-01-01T00:00:00Z", T0),
        ("2026-01-01T01:00:00+01:00", T0),
        ("2026-01-01", T0),
        ("2026-01-01T00:00:00.000001", T0 + 1000),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert time_ns(text, T0) == expected


@pytest.mark.parametrize("text", ["", "m", "-5m", "1.5h", "5 m", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(EoError, match="is no time"):
        time_ns(text, T0)


def test_a_whole_uuid_wins_over_longer_ones() -> None:
    assert one_of("GPU-1", ("GPU-1", "GPU-12")) == "GPU-1"
    assert one_of("GPU-2", ("GPU-1", "GPU-12")) is None
