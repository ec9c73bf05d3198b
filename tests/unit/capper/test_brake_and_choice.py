"""The row's brake and the limits that the node's own loop chooses: what is in force, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streams.contract.records import BrakeColumns
from tests.fakes.capper_rig import ALLOWED, Rig, columns

METERED = replace(ALLOWED, row_meter=True)
BUDGET_W = 10_000.0
TABLE = BrakeColumns(row="r1", budget_w=BUDGET_W, from_ratio=(0.90, 0.97), max_power_w=((400.0, 500.0), (250.0, 350.0)))


class Row(Rig):
    """A rig of one metered node whose envelope grants 500 W with a table."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        super().__init__(folder, settings=replace(METERED, **changes), clock=False)
        self.seq = 0
        self.capper.row_load(0.5 * BUDGET_W, 0.0)

    def renew(self, watts: float = 500.0, **changes: Any) -> Any:
        self.seq += 1
        asked = columns(watts=watts, low=None, high=None)
        return self.grant(self.seq, asked, ttl_ms=30_000, **{"brake": TABLE} | changes)

    def live(self, seconds: float, share: float | None) -> None:
        for _ in range(round(seconds / 0.5)):
            self.advance(0.5)
            self.capper.row_load(None if share is None else share * BUDGET_W, 0.0)
            self.capper.tick()

    @property
    def watts(self) -> float | None:
        assert self.power is not None
        return self.power.values["GPU-a"]

    def choose(self, watts: float | None) -> float | None:
        return self.capper.set_limits({"GPU-a": watts})["GPU-a"]

    def status(self, *path: str) -> Any:
        found: Any = self.capper.status()
        for name in path:
            found = found[name]
        return found

    def said(self) -> list[str]:
        return [event.gpu.reason[0] for event in self.capper.events()]


@pytest.fixture
def row(tmp_path: Path) -> Iterator[Row]:
    made = Row(tmp_path)
    made.renew()
    yield made
    made.capper.close()


def test_the_brake_goes_below_the_choice_and_comes_back_to_it(row: Row) -> None:
    row.choose(300.0)
    row.live(0.5, 0.98)
    assert row.watts == 250.0
    braked = "brake: 250 W instead of 500 W, row r1 draws 9800 W, 98% of its 10000 W"
    assert row.said() == [f"{braked}; 300 W, chosen on the node, comes back after it"]
    assert row.status("gpus", "GPU-a", "limits") == {"ceiling_w": 500.0, "chosen_w": 300.0, "braked_w": 250.0}
    ack = row.renew()
    assert ack.gpu.status[0] == "clamped" and ack.gpu.effective_limit_w[0] == 250.0
    assert ack.gpu.reason[0] == f"{braked}; 300 W, chosen on the node, comes back after it"
    for _ in range(6):
        row.live(20, 0.5)
        row.renew()
    assert row.watts == 300.0 and row.said()[-1] == "brake released: limit 300 W, chosen on the node within 500 W"


def test_a_choice_below_the_brake_stays_and_the_answer_tells_both(row: Row) -> None:
    assert row.power is not None
    row.choose(300.0)
    calls = row.power.set_calls
    row.live(0.5, 0.92)
    assert row.watts == 300.0 and calls == row.power.set_calls
    ack = row.renew()
    assert ack.gpu.status[0] == "clamped" and row.watts == 300.0
    assert ack.gpu.reason[0].endswith("; limit 300 W, chosen on the node within 400 W")


def test_a_choice_at_the_brake_itself_outlives_it(row: Row) -> None:
    row.live(0.5, 0.92)
    assert row.choose(400.0) == 400.0
    row.live(29, 0.5)
    assert row.watts == 400.0 and row.status("gpus", "GPU-a", "limits", "chosen_w") == 400.0


def test_a_wish_above_the_brake_is_refused_in_its_own_word(row: Row) -> None:
    row.live(0.5, 0.92)
    assert row.choose(450.0) == 400.0 and row.choose(501.0) == 400.0
    counts = row.status("counts")
    assert counts["limit_refused.braked"] == 1 and counts["limit_refused.outside_lease"] == 1


def test_a_clamp_is_told_beside_a_choice(tmp_path: Path) -> None:
    row = Row(tmp_path, power_ceiling_w=450.0)
    row.renew()
    row.choose(300.0)
    ack = row.renew()
    assert ack.gpu.status[0] == "clamped" and ack.gpu.reason[0] == (
        "limit 300 W, chosen on the node within 450 W; 500 W held to 450 W, the owner's ceiling"
    )
    row.capper.close()


def test_a_choice_above_a_lowered_ceiling_is_dropped_and_one_at_it_is_kept(row: Row) -> None:
    row.choose(400.0)
    row.renew(400.0)
    assert row.status("gpus", "GPU-a", "limits", "chosen_w") == 400.0
    row.renew(350.0)
    assert row.watts == 350.0 and row.status("gpus", "GPU-a", "limits", "chosen_w") is None
    row.renew(500.0)
    assert row.watts == 500.0


def test_a_renewal_that_brakes_is_not_refused_for_its_rate(tmp_path: Path) -> None:
    row = Row(tmp_path, min_power_interval_s=0.5)
    row.renew()
    row.advance(5.1)  # no tick: the meter is too old by now
    row.choose(450.0)
    assert row.renew().gpu.status[0] == "clamped" and row.watts == 250.0
    assert row.renew(240.0).gpu.reason[0].startswith("rate: ")
    row.capper.close()


def test_a_lease_after_a_hold_at_the_last_brake_keeps_the_owners_floor(tmp_path: Path) -> None:
    row = Row(tmp_path, power_floor_w=300.0, breaker_protected=True)
    row.renew(on_expiry="hold")
    row.live(31, 0.5)
    assert row.watts == 300.0
    row.renew()
    assert row.watts == 300.0 and row.status("gpus", "GPU-a", "limits", "braked_w") == 300.0
    row.capper.close()


@pytest.mark.parametrize("on_expiry", ["hold", "floor"])
def test_an_end_under_a_breaker_leaves_anothers_value(tmp_path: Path, on_expiry: str) -> None:
    row = Row(tmp_path, breaker_protected=True)
    row.renew(on_expiry=on_expiry)
    row.advance(30.0)
    assert row.power is not None
    row.power.foreign_writer("GPU-a", 641.0)
    row.capper.tick()
    assert row.watts == 641.0 and "changed by others to 641" in row.status("gpus", "GPU-a", "yielded")
    row.capper.close()


def test_back_to_the_ceiling_is_not_above_what_another_left_before_our_first_set(tmp_path: Path) -> None:
    row = Row(tmp_path)
    row.renew(700.0, brake=None)
    assert row.power is not None
    row.power.foreign_writer("GPU-a", 600.0)  # we hold nothing yet: it is what we find
    assert row.choose(400.0) == 400.0 and row.choose(None) == 600.0
    row.capper.close()


def test_a_slow_device_is_told_the_brake_while_a_rise_is_on_its_way(tmp_path: Path) -> None:
    row = Row(tmp_path)
    assert row.power is not None
    row.power.latency_s = 8.0  # type: ignore[misc]  # a BMC
    row.renew()
    row.live(9, 0.5)
    row.live(9, 0.98)
    assert row.watts == 250.0
    for _ in range(12):
        row.advance(0.5)
        row.capper.row_load(0.5 * BUDGET_W, 0.0)
    assert row.watts == 262.5 and row.status("gpus", "GPU-a", "pending") == {"power_limit_w": 262.5}
    row.capper.row_load(0.98 * BUDGET_W, 0.0)
    assert row.watts == 250.0
    row.capper.close()


def test_a_slow_device_is_told_a_ceiling_that_was_lowered_again(tmp_path: Path) -> None:
    row = Row(tmp_path)
    assert row.power is not None
    row.power.latency_s = 8.0  # type: ignore[misc]
    row.renew(500.0, brake=None)
    row.live(9, 0.5)
    row.renew(600.0, brake=None)
    row.renew(500.0, brake=None)
    assert row.watts == 500.0
    row.capper.close()


def test_a_device_that_obeyed_but_could_not_say_so_is_told_again_when_the_brake_has_passed(row: Row) -> None:
    assert row.power is not None
    row.power.lying_set("GPU-a")
    row.live(0.5, 0.98)
    row.power.heal()
    row.power.values["GPU-a"] = 250.0  # what it was told came into force late
    row.live(5, 0.5)
    assert row.watts == 500.0 and row.said() == [
        "brake: 350 W instead of 500 W, row r1 draws 9800 W, 98% of its 10000 W"
    ]


def test_failures_long_ago_do_not_count(row: Row) -> None:
    assert row.power is not None
    for _ in range(4):
        row.power.lying_set("GPU-a")
        row.live(0.5, 0.98)
        row.power.heal()
        row.live(2, 0.5)
        row.renew()
    assert row.status("counts", "brake.failed") == 4 and row.status("gpus", "GPU-a", "not_actuatable") == ""


def test_a_shallower_table_does_not_keep_an_older_brake_for_hours(row: Row) -> None:
    row.live(0.5, 0.98)
    shallow = BrakeColumns(row="r1", budget_w=BUDGET_W, from_ratio=(0.9,), max_power_w=((600.0, 600.0),))
    for _ in range(20):
        row.renew(brake=shallow)
        row.live(20, 0.5)
    assert row.watts == 500.0
