"""Devices that lie, vanish or are turned by others; files that cannot be written. Nothing is forgotten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.capper import durable, savefile
from agents.capper.errors import CapperError
from agents.capper.folder_lock import FolderHeld
from tests.fakes.capper_rig import Rig, columns


class TestForeignWriter:
    def test_we_yield_once_and_stay_away(self, rig: Rig) -> None:
        assert rig.power is not None and rig.clock is not None
        rig.grant(1)
        rig.capper.set_clocks({"GPU-a": 1200})
        rig.power.foreign_writer("GPU-a", 450.0)
        calls = rig.set_calls
        rig.run(5)
        (event,) = rig.capper.events()
        assert (event.event, event.gpu.uuid, event.gpu.effective_limit_w) == ("foreign_change", ("GPU-a",), (450.0,))
        assert event.gpu.reason[0] == "foreign: power_limit_w was changed by others to 450.0; left as it is"
        assert rig.set_calls == calls + 1, "only our own clock lock was given back"
        assert rig.clock.values["GPU-a"] is None
        ack = rig.grant(2)
        assert ack.gpu.status == ("refused", "applied")
        assert ack.gpu.reason[0].startswith("foreign: power_limit_w was changed by others")
        rig.run(30)
        assert rig.power.values == {"GPU-a": 450.0, "GPU-b": 700.0}

    def test_it_is_seen_at_the_next_command_too(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.grant(1)
        rig.power.foreign_writer("GPU-b", 650.0)
        ack = rig.grant(2, columns(watts=400))
        assert ack.gpu.status == ("applied", "refused")
        assert ack.gpu.reason[1] == "foreign: power_limit_w reads 650, we had set 500"
        assert rig.power.values == {"GPU-a": 400.0, "GPU-b": 650.0}

    def test_a_foreign_lock_is_respected_by_the_fast_loop(self, rig: Rig) -> None:
        assert rig.clock is not None
        rig.grant(1)
        rig.clock.foreign_writer("GPU-a", 1410.0)
        assert rig.capper.set_clocks({"GPU-a": 1200}) == {"GPU-a": 1410}
        assert rig.clock.values["GPU-a"] == 1410.0
        assert [event.event for event in rig.capper.events()] == ["foreign_change"]

    def test_a_change_between_two_looks_is_not_restored_over(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.grant(1)
        rig.power.foreign_writer("GPU-a", 450.0)
        ack = rig.capper.restore_all("test")
        assert ack.gpu.status == ("refused", "restored")
        assert rig.power.values == {"GPU-a": 450.0, "GPU-b": 700.0}

    def test_a_change_close_to_the_value_found_is_still_a_change_by_others(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.grant(1)
        rig.power.foreign_writer("GPU-a", 699.2)
        rig.power.foreign_writer("GPU-b", 700.0)
        assert rig.capper.restore_all("test").gpu.status == ("refused", "restored")
        assert rig.power.values == {"GPU-a": 699.2, "GPU-b": 700.0}

    def test_a_restore_by_a_human_ends_the_yielding(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.grant(1)
        rig.power.foreign_writer("GPU-a", 450.0)
        rig.run(1)
        rig.capper.restore_all("test")
        ack = rig.grant(2, columns(watts=400))
        assert ack.gpu.status == ("applied", "applied")
        assert ack.gpu.previous_limit_w == (450.0, 700.0)

    def test_rounding_by_the_device_is_not_a_foreign_change(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.power.rounding(0.5)
        rig.grant(1)
        rig.run(5)
        assert rig.capper.events() == []


class TestDisobedience:
    def test_a_set_without_effect_is_tried_three_times_and_then_told(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.power.lying_set("GPU-a")
        ack = rig.grant(1)
        assert ack.gpu.status == ("refused", "applied")
        assert ack.gpu.reason[0] == "not_actuatable: the device says 700 after it took 500"
        assert rig.power.set_calls == 3 + 1
        (event,) = rig.capper.events()
        assert (event.event, event.gpu.uuid) == ("not_actuatable", ("GPU-a",))
        again = rig.grant(2)
        assert again.gpu.reason[0] == "not_actuatable: the device says 700 after it took 500; next try in 60 s"
        rig.power.heal()
        rig.advance(60)
        assert rig.grant(3).gpu.status == ("applied", "applied")

    def test_what_may_work_again_is_tried_again(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.power.flaky_sets(2)
        assert rig.grant(1).gpu.status == ("applied", "applied")

    def test_a_missing_right_is_told_at_once(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.power.forbidden()
        ack = rig.grant(1)
        assert set(ack.gpu.status) == {"refused"} and "not permitted" in ack.gpu.reason[0]
        assert rig.power.set_calls == 2, "once per GPU: trying again cannot help"

    def test_a_lost_gpu_hurts_only_itself(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.power.lost("GPU-a")
        ack = rig.grant(1)
        assert ack.gpu.status == ("refused", "applied")
        assert ack.gpu.reason[0] == "device: GPU-a: GPU is lost"
        assert (ack.gpu.effective_limit_w[0], ack.gpu.measured_w[0]) == (None, None)

    def test_a_gpu_lost_under_a_lease_is_put_back_when_it_returns(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.grant(1)
        rig.run(1)
        rig.power.lost("GPU-a")
        rig.run(60)
        events = rig.capper.events()
        assert [event.event for event in events] == ["not_actuatable", "expiry"], "each told once"
        assert events[1].gpu.status == ("refused", "restored")
        assert events[1].gpu.reason[0].endswith("the saved value is kept and tried again")
        assert rig.grant(2, columns(("GPU-a",))).gpu.reason[0] == "restoring: the value found before us is not back yet"
        rig.power.heal()
        rig.run(1.25)
        assert rig.untouched()
        (event,) = rig.capper.events()
        assert (event.event, event.gpu.status, event.gpu.reason) == ("restore", ("restored",), ("put back at last",))
        assert not (rig.folder / "save.json").exists()

    def test_a_restore_that_fails_is_kept_across_restarts(self, rig: Rig) -> None:
        assert rig.power is not None
        rig.grant(1)
        rig.power.forbidden()
        assert rig.capper.restore_all("test").gpu.status == ("refused", "refused")
        rig.crash()
        rig.restart()
        assert rig.capper.events()[0].gpu.status == ("refused", "refused")
        rig.power.heal()
        rig.run(1.25)
        assert rig.untouched()

    def test_a_disobedient_clock_is_told_by_the_fast_loop(self, rig: Rig) -> None:
        assert rig.clock is not None
        rig.grant(1)
        rig.clock.lying_set("GPU-a")
        assert rig.capper.set_clocks({"GPU-a": 1200, "GPU-b": 1200}) == {"GPU-a": None, "GPU-b": 1200}
        assert [event.event for event in rig.capper.events()] == ["not_actuatable"]
        assert rig.power is not None and rig.power.values["GPU-a"] == 700.0


class TestFiles:
    def test_the_old_values_are_in_the_file_before_the_first_set(self, rig: Rig) -> None:
        assert rig.power is not None
        seen: list[savefile.Saved | None] = []
        plain_set = rig.power.set

        def watched(uuid: str, value: float | None) -> None:
            seen.append(savefile.load(rig.folder))
            plain_set(uuid, value)

        rig.power.set = watched  # type: ignore[method-assign]
        rig.grant(1)
        saved = seen[0]
        assert saved is not None and (saved.node, saved.power_actuator) == ("n1", "fake_power")
        assert {uuid: knob.previous for uuid, knob in saved.power.items()} == {"GPU-a": 700.0, "GPU-b": 700.0}
        assert {knob.owner for knob in saved.power.values()} == {"device default"}
        assert set(saved.clock) == {"GPU-a", "GPU-b"}

    def test_only_the_rules_cost_a_sync(self, rig: Rig) -> None:
        start = durable.fsync_count()
        rig.grant(1)
        assert durable.fsync_count() - start == 3, "the mark, the save file, its folder"
        rig.grant(2, columns(watts=450))
        assert durable.fsync_count() - start == 4, "the mark"
        for mhz in range(900, 1900, 15):
            rig.capper.set_clocks({"GPU-a": mhz})
        rig.run(5)
        assert durable.fsync_count() - start == 4

    def test_a_save_file_that_cannot_be_written_means_nothing_is_set(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, content: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(durable, "replace", full)
        ack = rig.grant(1)
        assert set(ack.gpu.status) == {"refused"} and rig.set_calls == 0
        path = rig.folder / "save.json"
        expected = f"save: {path} cannot be written (No space left on device): nothing was set; free or repair it"
        assert ack.gpu.reason[0] == expected
        monkeypatch.undo()
        assert rig.grant(2).gpu.status == ("applied", "applied")

    def test_a_mark_that_cannot_be_synced_means_nothing_is_set(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", broken)
        ack = rig.grant(1)
        assert set(ack.gpu.status) == {"refused"} and rig.set_calls == 0
        assert ack.gpu.reason[0].startswith(f"mark: {rig.folder / 'mark.json'} cannot be written (Input/output error)")

    @pytest.mark.parametrize("content", [b"", b"{", b"garbage\n" * 40, b"\0" * 256])
    def test_a_mark_that_cannot_be_trusted_stops_the_start(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "mark.json").write_bytes(content)
        rig = Rig(tmp_path, start=False)
        with pytest.raises(CapperError, match=r"mark\.json holds no valid mark.*run `eo restore`, delete the file"):
            rig.capper.start()
        assert rig.set_calls == 0

    def test_a_torn_mark_leaves_the_one_before(self, rig: Rig) -> None:
        rig.grant(1)
        rig.grant(2)
        rig.crash()
        raw = bytearray((rig.folder / "mark.json").read_bytes())
        newest = raw.index(b'"seq":2')
        raw[newest : newest + 20] = b"#" * 20
        (rig.folder / "mark.json").write_bytes(raw)
        rig.restart()
        assert rig.capper.status()["mark"] == [1, 1]

    @pytest.mark.parametrize("position", [5, 40, 120, -5])
    def test_a_save_file_that_cannot_be_trusted_stops_the_start(self, rig: Rig, position: int) -> None:
        rig.grant(1)
        rig.crash()
        raw = bytearray((rig.folder / "save.json").read_bytes())
        raw[position] ^= 1
        (rig.folder / "save.json").write_bytes(raw)
        calls = rig.set_calls
        with pytest.raises(CapperError, match=r"save\.json (is not a save file|fails its checksum).*nothing was set"):
            rig.restart()
        assert rig.set_calls == calls

    def test_a_save_file_of_other_actuators_is_not_used(self, rig: Rig) -> None:
        rig.grant(1)
        rig.crash()
        assert rig.power is not None
        rig.power.name = "other_power"
        with pytest.raises(CapperError, match="holds 2 values of fake_power, this capper uses other_power"):
            rig.restart()

    def test_a_folder_that_cannot_be_used_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "n1").write_text("a file where the folder should be")
        with pytest.raises(CapperError, match=r"n1 cannot be used \(File exists\)"):
            Rig(tmp_path / "n1")

    def test_a_second_capper_on_the_folder_is_told_who_holds_it(self, rig: Rig) -> None:
        with pytest.raises(FolderHeld, match=rf"another capper \(pid {os.getpid()}\) holds"):
            Rig(rig.folder)

    def test_gpus_that_vanished_stay_in_the_save_file(self, rig: Rig) -> None:
        assert rig.power is not None and rig.clock is not None
        rig.grant(1)
        rig.crash()
        gone = rig.power.values.pop("GPU-b"), rig.clock.values.pop("GPU-b")
        rig.restart()
        assert rig.capper.events()[0].gpu.status == ("restored", "refused")
        saved = savefile.load(rig.folder)
        assert saved is not None and list(saved.power) == ["GPU-b"]
        rig.power.values["GPU-b"], rig.clock.values["GPU-b"] = gone
        rig.run(1.25)
        assert rig.untouched()

    @pytest.mark.parametrize("knob", ["power", "clock"])
    def test_a_gpu_that_only_one_actuator_still_lists_keeps_both_saved_values(self, rig: Rig, knob: str) -> None:
        assert rig.power is not None and rig.clock is not None
        rig.grant(1)
        rig.capper.set_clocks({"GPU-b": 1200})
        rig.crash()
        values = rig.power.values if knob == "power" else rig.clock.values
        set_by_us = values.pop("GPU-b")
        rig.restart()
        (event,) = rig.capper.events()
        assert (event.event, event.gpu.status) == ("restore", ("restored", "refused"))
        assert "GPU-b: GPU is lost; the saved value is kept and tried again" in event.gpu.reason[1]
        saved = savefile.load(rig.folder)
        assert saved is not None
        assert [*saved.power, *saved.clock] == ["GPU-b"] and "GPU-b" in (
            saved.power if knob == "power" else saved.clock
        )
        values["GPU-b"] = set_by_us
        rig.run(1.25)
        assert rig.untouched() and not (rig.folder / "save.json").exists()

    def test_saved_values_of_an_actuator_without_a_name_are_not_dropped(self, tmp_path: Path) -> None:
        found = savefile.SavedKnob(previous=None, owner="device default", saved_at_ns=1)
        saved = savefile.Saved(
            cluster="c1", node="n1", capper_id="x", power_actuator="fake_power", clock={"GPU-a": found}
        )
        savefile.write(tmp_path, saved)
        with pytest.raises(CapperError, match="holds 1 values of an unnamed actuator, this capper uses none"):
            Rig(tmp_path, clock=False)
        assert savefile.load(tmp_path) == saved

    def test_a_file_that_lags_behind_is_written_as_soon_as_it_can_be(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(folder: Path) -> None:
            raise OSError(28, "No space left on device")

        rig.grant(1)
        monkeypatch.setattr(durable, "sync_folder", full)
        monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: full(path))
        rig.run(11)
        assert rig.untouched() and (rig.folder / "save.json").exists()
        monkeypatch.undo()
        rig.run(0.25)
        assert not (rig.folder / "save.json").exists()
