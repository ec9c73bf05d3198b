"""What the demo refuses before it starts anything: each text with its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cli.base import DEMO_MARK, EoError
from agents.cli.intents import cluster_name
from agents.cli.main import main
from agents.cli.stack import fresh_folder
from streams.contract.layout import Layout


@pytest.mark.parametrize(
    ("words", "env", "text"),
    [
        (["--nodes", "0"], {}, "--nodes 0 is outside 1..1000"),
        (["--gpus", "6"], {}, "--gpus 6 is not 4, 8, 12 or 16"),
        (["--seconds", "nan"], {}, "--seconds nan is not above 0 and finite"),
        (["--seconds", "-3"], {}, "--seconds -3 is not above 0"),
        ([], {"DEMO_NODES": "inf"}, "DEMO_NODES='inf' is not a whole number"),
        ([], {"DEMO_NODES": "7.9"}, "DEMO_NODES='7.9' is not a whole number"),
        ([], {"DEMO_NODES": "0"}, "--nodes 0 is outside 1..1000"),
        ([], {"DEMO_SECONDS": "soon"}, "DEMO_SECONDS='soon' is not a number"),
        ([], {"EO_STRATEGYY": "x"}, "EO_STRATEGYY is no setting, did you mean EO_STRATEGY?"),
    ],
)
def test_odd_sizes_and_names(
    words: list[str],
    env: dict[str, str],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main(["demo", *words]) == 2
    assert text in capsys.readouterr().err


def test_a_summary_that_cannot_be_written_is_said_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "out.json")]) == 1
    assert "choose another DEMO_JSON" in capsys.readouterr().err


def test_the_last_demo_moves_aside_and_other_people_s_data_is_never_touched(tmp_path: Path) -> None:
    root, previous, said = tmp_path / "d", tmp_path / "d-previous", []
    fresh_folder(Layout(root), said.append)
    (root / "archive").mkdir()
    fresh_folder(Layout(root), said.append)
    assert (previous / "archive").is_dir() and not (root / "archive").exists()
    fresh_folder(Layout(root), said.append)
    assert not (previous / "archive").exists()

    (previous / DEMO_MARK).unlink()
    (previous / "precious.txt").write_text("mine")
    with pytest.raises(EoError, match="no demo wrote it"):
        fresh_folder(Layout(root), said.append)
    assert (previous / "precious.txt").read_text() == "mine"

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    with pytest.raises(EoError, match="holds data that no demo wrote"):
        fresh_folder(Layout(tmp_path / "other"), said.append)


def test_verbs_in_a_demo_s_folder_mean_the_demo_s_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("EO_CLUSTER", raising=False)
    assert cluster_name() == "default"
    (tmp_path / DEMO_MARK).write_text("{}")
    assert cluster_name() == "demo"
    monkeypatch.setenv("EO_CLUSTER", "berlin")
    assert cluster_name() == "berlin"
