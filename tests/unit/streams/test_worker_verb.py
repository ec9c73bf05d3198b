"""`eo worker`: wrong names and wrong settings are refused with the next step before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli.main import main


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["worker", "feature"], "eo worker: 'feature' is not a job; did you mean 'features'?"),
        (["worker", "--only", "features,ledgr"], "eo worker: 'ledgr' is not a job; did you mean 'ledger'?"),
    ],
)
def test_an_unknown_job_is_refused(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.strip() == text


def test_a_wrong_setting_is_refused_with_its_name_and_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_TTL_MS", "99999")
    assert main(["worker", "features"]) == 2
    text = capsys.readouterr().err
    assert "EO_TTL_MS" in text.upper() or "ttl_ms" in text
    assert "'99999'" in text and "less than or equal to 30000" in text and "eo config show" in text


def test_a_misspelt_setting_is_refused_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_STAL_S", "5")
    assert main(["worker", "features"]) == 2
    assert "EO_STALL_S" in capsys.readouterr().err


def test_importing_the_verb_is_light() -> None:
    code = "import agents.cli.worker, sys; print([m for m in ('faust', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
