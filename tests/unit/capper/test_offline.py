"""Restoring with no process alive, from the save file alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.capper import durable, offline
from agents.capper.actuators.errors import ActuatorError
from agents.capper.errors import CapperError
from agents.capper.folder_lock import FolderHeld
from tests.fakes.capper_rig import Rig


@pytest.fixture
def dead(rig: Rig) -> Rig:
    """A capper killed while it held two limits and one lock."""
    rig.grant(1)
    rig.capper.set_clocks({"GPU-a": 1200})
    rig.crash()
    return rig


def test_every_value_comes_back_once(dead: Rig) -> None:
    rows = offline.restore(dead.folder, dead.power, dead.clock)
    assert dead.untouched()
    told = {(row.uuid, row.knob): (row.before, row.after, row.state) for row in rows}
    assert told == {
        ("GPU-a", "power_limit_w"): (500.0, 700.0, "restored"),
        ("GPU-b", "power_limit_w"): (500.0, 700.0, "restored"),
        ("GPU-a", "sm_lock_mhz"): (1200.0, None, "restored"),
        ("GPU-b", "sm_lock_mhz"): (None, None, "restored"),
    }
    assert offline.restore(dead.folder, dead.power, dead.clock) == []
    assert not (dead.folder / "save.json").exists()


def test_a_rehearsal_changes_nothing(dead: Rig) -> None:
    calls = dead.set_calls
    rows = offline.restore(dead.folder, dead.power, dead.clock, dry_run=True)
    assert {row.state for row in rows} == {"planned"} and len(rows) == 4
    assert dead.set_calls == calls and not dead.untouched()


def test_what_fails_stays_in_the_file(dead: Rig) -> None:
    assert dead.power is not None
    dead.power.lost("GPU-a")
    failed = [row for row in offline.restore(dead.folder, dead.power, dead.clock) if row.state == "failed"]
    assert [(row.uuid, row.knob, row.problem) for row in failed] == [("GPU-a", "power_limit_w", "GPU-a: GPU is lost")]
    planned = offline.restore(dead.folder, dead.power, dead.clock, dry_run=True)
    assert [(row.uuid, row.problem) for row in planned] == [("GPU-a", "GPU-a: GPU is lost")]
    dead.power.heal()
    assert [row.uuid for row in offline.restore(dead.folder, dead.power, dead.clock)] == ["GPU-a"]
    assert dead.untouched()


def test_a_live_capper_is_not_undercut(rig: Rig) -> None:
    rig.grant(1)
    with pytest.raises(FolderHeld, match="another capper"):
        offline.restore(rig.folder, rig.power, rig.clock)


def test_a_folder_without_a_promise_has_nothing_to_do(tmp_path: Path) -> None:
    assert offline.restore(tmp_path, None, None) == []


def test_devices_that_cannot_be_listed_are_one_sentence(dead: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> tuple[str, ...]:
        raise ActuatorError("driver not loaded")

    monkeypatch.setattr(dead.power, "uuids", gone)
    with pytest.raises(CapperError, match="the GPUs of node n1 cannot be listed: driver not loaded; try again"):
        offline.restore(dead.folder, dead.power, dead.clock)


def test_a_file_that_stays_is_one_sentence(dead: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(durable, "sync_folder", broken)
    with pytest.raises(
        CapperError, match=r"cannot be written \(Read-only file system\); the values themselves were put back"
    ):
        offline.restore(dead.folder, dead.power, dead.clock)
    assert dead.untouched()
