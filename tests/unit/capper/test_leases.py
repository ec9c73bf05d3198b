"""Leases end on the monotonic clock, and what was found comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.capper_rig import ALLOWED, Rig, columns

BREAKER = replace(ALLOWED, breaker_protected=True)


def test_a_lease_that_is_not_renewed_restores_and_says_so(rig: Rig) -> None:
    rig.grant(1, ttl_ms=10_000)
    rig.capper.set_clocks({"GPU-a": 1200})
    rig.run(9.75)
    assert not rig.untouched() and rig.capper.events() == []
    rig.run(0.25)
    assert rig.untouched()
    (event,) = rig.capper.events()
    assert (event.event, event.epoch, event.seq, event.mode) == ("expiry", 1, 1, "on")
    assert event.gpu.status == ("restored", "restored")
    assert event.gpu.reason[0] == "the lease ended: put back"
    assert event.gpu.effective_limit_w == (700.0, 700.0) and event.gpu.previous_limit_w == (700.0, 700.0)
    assert not (rig.folder / "save.json").exists()
    assert rig.capper.events() == []


def test_a_value_that_was_not_the_default_comes_back_as_it_was(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.power is not None and rig.clock is not None
    rig.power.values["GPU-a"], rig.clock.values["GPU-a"] = 550.0, 1500.0
    rig.grant(1, columns(watts=400, low=900, high=1500))
    rig.capper.set_clocks({"GPU-a": 1200})
    assert (rig.power.values["GPU-a"], rig.clock.values["GPU-a"]) == (400.0, 1200.0)
    rig.run(11)
    assert (rig.power.values["GPU-a"], rig.clock.values["GPU-a"]) == (550.0, 1500.0)


@pytest.mark.parametrize("last_w", [699.2, 699.999])
def test_a_limit_set_close_to_the_one_found_goes_back_to_the_very_value(rig: Rig, last_w: float) -> None:
    assert rig.power is not None
    for seq in (1, 3, 5):
        rig.grant(seq, columns(watts=600))
        assert rig.grant(seq + 1, columns(watts=last_w)).gpu.effective_limit_w == (last_w, last_w)
        ack = rig.capper.restore_all("test")
        assert ack.gpu.status == ("restored", "restored") and ack.gpu.effective_limit_w == (700.0, 700.0)
    assert rig.untouched() and not (rig.folder / "save.json").exists()


def test_a_limit_left_close_to_the_one_found_by_a_dead_capper_goes_back_too(rig: Rig) -> None:
    rig.grant(1, columns(watts=600))
    rig.grant(2, columns(watts=699.2))
    rig.crash()
    rig.restart()
    assert rig.untouched() and not (rig.folder / "save.json").exists()


def test_a_device_that_rounds_what_it_is_told_counts_as_restored(rig: Rig) -> None:
    assert rig.power is not None
    rig.power.rounding(0.5)
    rig.grant(1, columns(watts=600))
    assert rig.capper.restore_all("test").gpu.status == ("restored", "restored")
    assert rig.power.values == {"GPU-a": 699.5, "GPU-b": 699.5}


def test_renewal_keeps_it(rig: Rig) -> None:
    for seq in range(1, 10):
        rig.grant(seq, ttl_ms=10_000)
        rig.run(5)
    assert rig.power is not None and set(rig.power.values.values()) == {500.0}
    assert rig.capper.events() == []


def test_a_gpu_refused_in_a_renewal_keeps_its_older_lease_and_no_more(rig: Rig) -> None:
    rig.grant(1, columns(watts=500), ttl_ms=10_000)
    rig.run(5)
    rig.grant(2, columns(watts=[150.0, 500.0]), ttl_ms=10_000)
    rig.run(5)
    assert rig.power is not None and rig.power.values == {"GPU-a": 700.0, "GPU-b": 500.0}
    rig.run(5)
    assert rig.untouched()


@pytest.mark.parametrize("jump_s", [3600, -600])
def test_a_jump_of_the_wall_clock_changes_no_lease(rig: Rig, jump_s: int) -> None:
    rig.grant(1, ttl_ms=10_000)
    rig.wall_ns += jump_s * 10**9
    rig.run(9.75)
    assert not rig.untouched()
    rig.run(0.25)
    assert rig.untouched()


def test_after_a_jump_commands_are_refused_until_the_clocks_agree(rig: Rig) -> None:
    raw = rig.raw(1)
    rig.wall_ns += 3600 * 10**9
    assert rig.send(raw).gpu.reason[0].startswith("expired: issued 3600.0 s ago")


@pytest.mark.parametrize("on_expiry", ["hold", "floor"])
def test_holding_on_needs_the_owners_word(rig: Rig, on_expiry: str) -> None:
    rig.grant(1, on_expiry=on_expiry)
    rig.run(10)
    assert rig.untouched()
    (event,) = rig.capper.events()
    assert event.gpu.reason[0] == f"the lease ended: put back ({on_expiry} needs breaker_protected on this node)"


def test_hold_keeps_the_limit_where_a_breaker_is_protected(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=BREAKER)
    rig.grant(1, on_expiry="hold")
    rig.run(60)
    assert rig.power is not None and set(rig.power.values.values()) == {500.0}
    (event,) = rig.capper.events()
    assert event.gpu.status == ("expired", "expired")
    rig.capper.restore_all("test")
    assert rig.untouched()


def test_floor_lowers_the_limit_where_a_breaker_is_protected(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=replace(BREAKER, power_floor_w=300.0))
    rig.grant(1, columns(watts=[500.0, None]), on_expiry="floor")
    rig.run(60)
    assert rig.power is not None and set(rig.power.values.values()) == {300.0}
    rig.crash()
    rig.restart()
    assert rig.untouched()


def test_a_lease_on_which_nothing_was_set_just_ends(tmp_path: Path) -> None:
    rig = Rig(tmp_path, clock=False)
    rig.grant(1, columns(watts=700, low=None, high=None))
    rig.run(10)
    (event,) = rig.capper.events()
    assert event.gpu.status == ("expired", "expired")
    assert rig.set_calls == 0


def test_leases_do_not_survive_a_restart(rig: Rig) -> None:
    rig.grant(1)
    rig.capper.set_clocks({"GPU-a": 1200})
    rig.crash()
    assert not rig.untouched()
    rig.restart()
    assert rig.untouched()
    (event,) = rig.capper.events()
    assert (event.event, event.gpu.status) == ("restore", ("restored", "restored"))
    assert rig.capper.set_clocks({"GPU-a": 1200}) == {"GPU-a": None}


def test_closing_restores(rig: Rig) -> None:
    rig.grant(1)
    rig.capper.close()
    assert rig.untouched()


class TestClocks:
    def test_locks_move_freely_inside_the_lease(self, rig: Rig) -> None:
        rig.grant(1, columns(low=900, high=1500))
        assert rig.capper.set_clocks({"GPU-a": 900, "GPU-b": 1500}) == {"GPU-a": 900, "GPU-b": 1500}
        assert rig.capper.set_clocks({"GPU-a": None}) == {"GPU-a": None}

    @pytest.mark.parametrize("wanted", [899, 1501, 0, -900, 10**9, True, 1200.0, float("nan")])
    def test_outside_the_lease_nothing_moves(self, rig: Rig, wanted: int) -> None:
        rig.grant(1, columns(low=900, high=1500))
        rig.capper.set_clocks({"GPU-a": 1200})
        calls = rig.set_calls
        assert rig.capper.set_clocks({"GPU-a": wanted}) == {"GPU-a": 1200}
        assert rig.set_calls == calls

    def test_without_a_lease_nothing_moves(self, rig: Rig) -> None:
        assert rig.capper.set_clocks({"GPU-a": 1200, "GPU-elsewhere": 900}) == {"GPU-a": None, "GPU-elsewhere": None}
        rig.grant(1)
        rig.capper.set_clocks({"GPU-a": 1200})
        rig.advance(10)  # over, and nobody ticked yet
        calls = rig.set_calls
        assert rig.capper.set_clocks({"GPU-a": 900}) == {"GPU-a": 1200}
        assert rig.set_calls == calls

    def test_the_grid_is_kept_latency_first(self, rig: Rig) -> None:
        rig.grant(1, columns(low=900, high=1499))
        assert rig.capper.set_clocks({"GPU-a": 1201, "GPU-b": 1498}) == {"GPU-a": 1215, "GPU-b": 1485}

    def test_the_rate_holds_back_changes_and_never_a_release(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, settings=replace(ALLOWED, min_clock_interval_s=0.5))
        rig.grant(1)
        assert rig.capper.set_clocks({"GPU-a": 1200}) == {"GPU-a": 1200}
        assert rig.capper.set_clocks({"GPU-a": 1500}) == {"GPU-a": 1200}
        assert rig.capper.set_clocks({"GPU-a": None}) == {"GPU-a": None}
        rig.advance(0.5)
        assert rig.capper.set_clocks({"GPU-a": 1500}) == {"GPU-a": 1500}

    def test_a_narrower_renewal_moves_the_lock_to_its_nearest_bound(self, rig: Rig) -> None:
        rig.grant(1, columns(low=900, high=1980))
        rig.capper.set_clocks({"GPU-a": 1800, "GPU-b": 900})
        ack = rig.grant(2, columns(low=1200, high=1500))
        assert ack.gpu.effective_sm_mhz == (1500, 1200)

    def test_wider_than_the_device_is_clamped(self, rig: Rig) -> None:
        ack = rig.grant(1, columns(low=100, high=2500))
        assert ack.gpu.status == ("clamped", "clamped")
        assert rig.capper.set_clocks({"GPU-a": 2000, "GPU-b": 345}) == {"GPU-a": None, "GPU-b": 345}

    @pytest.mark.parametrize(
        ("low", "high", "code"), [(1500, 900, "value"), (100, 300, "floor"), (900, 10**9, "unit"), (-5, -1, "floor")]
    )
    def test_windows_that_make_no_sense_are_refused(self, rig: Rig, low: int, high: int, code: str) -> None:
        assert rig.grant(1, columns(low=low, high=high)).gpu.reason[0].startswith(f"{code}: ")
        assert rig.untouched() and rig.set_calls == 0

    def test_the_owners_clock_floor_is_kept(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, settings=replace(ALLOWED, sm_floor_mhz=1000))
        rig.grant(1, columns(low=900, high=1500))
        assert rig.capper.set_clocks({"GPU-a": 990, "GPU-b": 1000}) == {"GPU-a": None, "GPU-b": 1005}

    def test_a_lock_found_below_every_allowed_one_is_left_alone(self, tmp_path: Path) -> None:
        rig = Rig(tmp_path, settings=replace(ALLOWED, sm_floor_mhz=1000))
        assert rig.clock is not None
        rig.clock.values["GPU-a"] = 900.0
        ack = rig.grant(1)
        assert ack.gpu.reason[0].startswith("ceiling: the lock found before us, 900 MHz")
        assert ack.gpu.status == ("refused", "clamped")
