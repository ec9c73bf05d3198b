"""The brake on the node: the signed table and the row's meter, in virtual time, with the meter's faults by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.capper.brake import EASE_S
from agents.capper.settings import CapperSettings
from streams.contract.codec import encode
from streams.contract.records import BrakeColumns, PowerApplied
from tests.fakes.capper_rig import ALLOWED, STRANGER, Rig, columns, command

METERED = replace(ALLOWED, row_meter=True)
BUDGET_W = 10_000.0
TABLE = BrakeColumns(row="r1", budget_w=BUDGET_W, from_ratio=(0.90, 0.97), max_power_w=((400.0, 500.0), (250.0, 350.0)))


class Row(Rig):
    """A rig whose agent tells the row's power before every tick and whose lease is renewed every five seconds."""

    def __init__(self, folder: Path, *, settings: CapperSettings = METERED, **more: Any) -> None:
        super().__init__(folder, settings=settings, **more)
        self.seq, self.next_s, self.table, self.acks = 0, self.now_s, TABLE, list[PowerApplied]()
        self.on_expiry = "restore"

    def renew(self, **changes: Any) -> PowerApplied:
        self.seq, self.next_s = self.seq + 1, self.now_s + 5.0
        fields = {"brake": self.table, "on_expiry": self.on_expiry} | changes
        return self.grant(self.seq, columns(watts=500.0), **fields)

    def live(self, seconds: float, watts: Callable[[float], tuple[float | None, float]], *, renew: bool = True) -> None:
        """`watts`: time since now -> what the agent tells, (watts, age)."""
        began = self.now_s
        for _ in range(round(seconds / 0.5)):
            self.advance(0.5)
            self.capper.row_load(*watts(self.now_s - began))
            self.capper.tick()
            if renew and self.now_s >= self.next_s:
                self.renew()
            self.acks += self.capper.events()

    def limits(self) -> tuple[float | None, float | None]:
        assert self.power is not None
        return self.power.values["GPU-a"], self.power.values["GPU-b"]


def at(share: float) -> Callable[[float], tuple[float | None, float]]:
    return lambda _: (share * BUDGET_W, 0.2)


@pytest.fixture
def row(tmp_path: Path) -> Iterator[Row]:
    made = Row(tmp_path / "n1")
    made.capper.row_load(5_000.0, 0.0)
    made.renew()
    yield made
    made.capper.close()


def test_a_step_is_taken_at_once_and_each_gpu_takes_its_own_line(row: Row) -> None:
    row.live(5, at(0.80))
    assert row.limits() == (500.0, 500.0) and row.acks == []
    row.live(0.5, at(0.91))
    assert row.limits() == (400.0, 500.0)
    row.live(0.5, at(0.98))
    assert row.limits() == (250.0, 350.0)
    first, second = row.acks
    assert (first.event, first.epoch, first.seq) == ("command", 1, row.seq) and first.gpu.uuid == ("GPU-a",)
    assert first.gpu.status == ("clamped",) and first.gpu.requested_limit_w == (500.0,)
    assert first.gpu.reason == ("brake: 400 W instead of 500 W, row r1 draws 9100 W, 91% of its 10000 W",)
    assert second.gpu.effective_limit_w == (250.0, 350.0) and second.gpu.previous_limit_w == (700.0, 700.0)
    assert first.issued_at_ns is None and first.sample_ts_ns is None  # no answer to a command: no loop time
    assert row.capper.status()["counts"]["brake.braked"] == 3  # type: ignore[index]


def test_it_comes_back_slowly_and_only_below_the_margin(row: Row) -> None:
    row.live(1, at(0.98))
    row.live(20, at(0.945))  # below the step but not by the margin
    assert row.limits() == (250.0, 350.0)
    row.live(EASE_S - 0.5, at(0.50))
    assert row.limits() == (250.0, 350.0)
    seen = []
    for _ in range(30):
        row.live(EASE_S, at(0.50))
        seen.append(row.limits()[0] or 0.0)
    assert seen == sorted(seen) and seen[0] == pytest.approx(262.5) and seen[-1] == 500.0
    told = [a.gpu.reason for a in row.acks]
    assert len(told) == 2 and told[-1][0].startswith("brake released: back at 500 W")
    assert row.capper.status()["row"]["braked"] == {}  # type: ignore[index]


def test_a_load_that_swings_around_a_step_does_not_swing_the_limits(row: Row) -> None:
    assert row.power is not None
    before = row.power.set_calls
    row.live(120, lambda t: ((0.91 if int(t) % 2 else 0.85) * BUDGET_W, 0.1))
    assert row.limits() == (400.0, 500.0) and row.power.set_calls == before + 1 and len(row.acks) == 1


def test_a_renewal_does_not_lift_the_brake_and_its_answer_says_why(row: Row) -> None:
    row.live(1, at(0.98))
    ack = row.renew()
    assert row.limits() == (250.0, 350.0) and ack.gpu.status == ("clamped", "clamped")
    assert ack.gpu.reason[0].startswith("brake: 250 W instead of 500 W, row r1 draws 9800 W")
    assert row.power is not None and row.power.set_calls == 4  # two grants, two brakes, no more


def test_a_brake_that_a_grant_has_told_of_is_not_told_again(tmp_path: Path) -> None:
    row = Row(tmp_path)
    ack = row.renew()  # the agent has not spoken yet
    assert ack.gpu.status == ("clamped", "clamped") and "the power of row r1 is unknown" in ack.gpu.reason[0]
    row.live(12, lambda _: (None, 0.0))
    assert row.acks == [] and row.capper.status()["counts"]["brake.braked"] == 2  # type: ignore[index]
    row.capper.close()


# --- the meter's faults, by name ---


def gap(t: float) -> tuple[float | None, float]:
    return (0.5 * BUDGET_W, 0.2) if t < 3 else (0.5 * BUDGET_W, t - 3.0 + 0.2)  # the last reading grows old


def nothing(t: float) -> tuple[float | None, float]:
    return (0.5 * BUDGET_W, 0.2) if t < 3 else (None, 0.0)


def zero(t: float) -> tuple[float | None, float]:
    return (0.5 * BUDGET_W, 0.2) if t < 3 else (0.0, 0.2)


def negative(t: float) -> tuple[float | None, float]:
    return (0.5 * BUDGET_W, 0.2) if t < 3 else (-40.0, 0.2)


def not_a_number(t: float) -> tuple[float | None, float]:
    return (0.5 * BUDGET_W, 0.2) if t < 3 else (nan, 0.2)


def infinite_age(t: float) -> tuple[float | None, float]:
    return (0.5 * BUDGET_W, 0.2) if t < 3 else (0.5 * BUDGET_W, inf)


@pytest.mark.parametrize("fault", [gap, nothing, zero, negative, not_a_number, infinite_age])
def test_a_meter_that_says_nothing_sound_brakes_as_at_the_highest_share(
    row: Row, fault: Callable[[float], tuple[float | None, float]]
) -> None:
    row.live(2.5, fault)
    assert row.limits() == (500.0, 500.0)
    row.live(9.5, lambda t: fault(t + 2.5))
    assert row.limits() == (250.0, 350.0)
    reason = row.acks[-1].gpu.reason[0]
    assert "the power of row r1 is unknown" in reason or "s old (bound 5 s)" in reason


def test_a_short_gap_within_the_bound_changes_nothing(row: Row) -> None:
    row.live(4, lambda t: (0.5 * BUDGET_W, t))
    assert row.limits() == (500.0, 500.0) and row.acks == []


def test_a_spike_brakes_and_a_dip_does_not_release(row: Row) -> None:
    row.live(5, lambda t: (1e9 if t == 2.0 else 0.5 * BUDGET_W, 0.1))
    assert row.limits() == (250.0, 350.0)
    row.live(1, at(0.98))
    row.live(10, lambda t: ((0.1 if t == 2.0 else 0.98) * BUDGET_W, 0.1))
    assert row.limits() == (250.0, 350.0)


def test_an_agent_that_falls_silent_brakes_although_nobody_calls(row: Row) -> None:
    row.live(2, at(0.5))
    for _ in range(24):
        row.run(0.25)
        if row.now_s >= row.next_s:
            row.renew()
    assert row.limits() == (250.0, 350.0)


# --- what it may never do ---


def test_never_below_the_floor_never_above_the_grant(tmp_path: Path) -> None:
    row = Row(tmp_path, settings=replace(METERED, power_floor_w=300.0))
    row.table = replace_table(max_power_w=((450.0, 9_000.0), (-50.0, 100.0)))
    row.renew()
    assert row.limits() == (300.0, 300.0)  # unknown until the agent speaks
    row.live(200, at(0.91))
    assert row.limits() == (450.0, 500.0)
    row.capper.close()


def replace_table(**changes: Any) -> BrakeColumns:
    found: BrakeColumns = msgspec.structs.replace(TABLE, **changes)
    return found


def test_null_in_the_table_leaves_the_grant_and_a_hold_out_is_never_braked(tmp_path: Path) -> None:
    row = Row(tmp_path)
    row.table = replace_table(max_power_w=((None, 400.0), (None, 250.0)))
    gpu = columns(watts=[500.0, None], low=None, high=None, holdout=[False, True])
    row.grant(1, gpu, brake=row.table)
    row.live(5, at(1.2), renew=False)
    assert row.limits() == (500.0, 700.0)
    row.capper.close()


def test_it_ends_with_its_lease_and_the_value_found_comes_back(row: Row) -> None:
    row.live(1, at(0.98))
    row.live(12, at(0.98), renew=False)
    assert row.untouched() and row.acks[-1].event == "expiry"
    row.live(5, at(1.5), renew=False)
    assert row.untouched()  # without a lease the meter decides nothing
    row.live(0.5, at(0.5), renew=False)
    row.renew()
    assert row.limits() == (500.0, 500.0)  # and what it had decided is forgotten


def test_a_lease_that_is_over_is_not_braked_before_it_is_ended(row: Row) -> None:
    assert row.power is not None
    before = row.power.set_calls
    row.advance(10.0)
    row.capper.row_load(1.2 * BUDGET_W, 0.0)
    assert row.power.set_calls == before


def test_a_device_that_takes_its_time_is_told_once_and_waited_for(tmp_path: Path) -> None:
    row = Row(tmp_path)
    assert row.power is not None
    row.power.latency_s = 8.0  # type: ignore[misc]  # a BMC
    row.capper.row_load(5_000.0, 0.0)
    row.renew()
    row.live(10, at(0.5))
    before = row.power.set_calls
    row.live(10, at(0.98))
    assert row.limits() == (250.0, 350.0) and row.power.set_calls == before + 2
    row.live(200, at(0.5))
    assert row.limits() == (500.0, 500.0)
    row.capper.close()


def test_a_protected_breaker_holds_the_last_brake_when_the_stream_is_away(tmp_path: Path) -> None:
    row = Row(tmp_path, settings=replace(METERED, breaker_protected=True))
    row.on_expiry = "hold"
    row.capper.row_load(5_000.0, 0.0)
    row.renew()
    row.live(9, at(0.5), renew=False)
    assert row.limits() == (500.0, 500.0)
    row.live(2, at(0.5), renew=False)
    assert row.limits() == (250.0, 350.0)
    assert row.acks[-1].gpu.reason[0] == "the lease ended: held at its last brake, a breaker is protected"
    row.live(EASE_S, at(0.5))
    assert (row.limits()[0] or 0.0) < 300.0  # a new lease comes back slowly too
    row.capper.close()
    assert row.untouched()


def test_without_a_meter_of_its_own_a_node_does_not_act_on_the_table(tmp_path: Path) -> None:
    row = Row(tmp_path, settings=ALLOWED)
    row.renew()
    assert row.capper.row_load(99_999.0, 0.0) is False
    row.live(5, at(1.5))
    assert row.limits() == (500.0, 500.0) and row.capper.status()["row"] is None
    row.capper.close()


def test_the_owners_budget_goes_before_the_tables(tmp_path: Path) -> None:
    row = Row(tmp_path, settings=replace(METERED, row_budget_w=2_000.0))
    row.capper.row_load(1_000.0, 0.0)
    row.renew()
    row.live(1, lambda _: (1_960.0, 0.1))
    assert row.limits() == (250.0, 350.0) and "98% of its 2000 W" in row.acks[-1].gpu.reason[0]
    row.capper.close()


@pytest.mark.parametrize("how", ["another key", "changed table", "another node", "another cluster"])
def test_a_table_that_is_not_proved_ours_is_ignored_and_counted(row: Row, how: str) -> None:
    row.live(1, at(0.5))
    lower = replace_table(from_ratio=(0.1, 0.2))
    made = command(row.seq + 1, columns(watts=500.0), issued_at_ns=row.wall_ns, brake=lower)
    if how == "another key":
        raw, code = encode(STRANGER.sign(made)), "signature"
    elif how == "changed table":
        signed = msgspec.json.decode(row.raw(row.seq + 1, columns(watts=500.0), brake=TABLE))
        signed["brake"]["from_ratio"] = [0.1, 0.2]
        raw, code = msgspec.json.encode(signed), "signature"
    else:
        other = {"another node": {"node": "n2"}, "another cluster": {"cluster": "c2"}}[how]
        raw = row.raw(row.seq + 1, columns(watts=500.0), brake=lower, **other)
        code = how.split()[1]
    ack = row.send(raw)
    row.live(3, at(0.5), renew=False)
    assert set(ack.gpu.status) == {"refused"} and row.limits() == (500.0, 500.0)
    assert row.capper.status()["counts"][f"refused.{code}"] == 1  # type: ignore[index]


# --- devices and files ---


def test_a_device_that_does_not_obey_the_brake_is_told_again_then_given_up(row: Row) -> None:
    assert row.power is not None
    row.power.lying_set("GPU-a")
    row.live(1, at(0.98))
    assert row.limits() == (500.0, 350.0) and not any(a.event == "not_actuatable" for a in row.acks)
    row.live(3, at(0.98))
    assert any(a.event == "not_actuatable" and a.gpu.uuid == ("GPU-a",) for a in row.acks)
    assert row.capper.status()["counts"]["brake.failed"] == 3  # type: ignore[index]


def test_a_device_that_hiccups_once_is_braked_a_moment_later(row: Row) -> None:
    assert row.power is not None
    row.power.flaky_sets(3)
    row.live(2, at(0.98))
    assert row.limits() == (250.0, 350.0) and not any(a.event == "not_actuatable" for a in row.acks)


def test_another_writer_is_left_alone(row: Row) -> None:
    assert row.power is not None
    row.power.foreign_writer("GPU-a", 650.0)
    row.live(2, at(0.98))
    assert row.limits() == (650.0, 350.0) and any(a.event == "foreign_change" for a in row.acks)


def test_a_full_grant_is_saved_before_it_can_be_braked(tmp_path: Path) -> None:
    row = Row(tmp_path)
    row.capper.row_load(5_000.0, 0.0)
    row.table = replace_table(max_power_w=((600.0, 600.0), (250.0, 250.0)))
    row.grant(1, columns(watts=700.0, low=None, high=None), brake=row.table)
    assert row.untouched() and (row.folder / "save.json").exists()
    row.live(1, at(0.98), renew=False)
    assert row.limits() == (250.0, 250.0)
    row.crash()
    row.restart()
    assert row.untouched()
    row.capper.close()


def test_the_brake_is_bound_by_neither_rate_nor_step(tmp_path: Path) -> None:
    row = Row(tmp_path, settings=replace(METERED, min_power_interval_s=60.0, max_step_w=200.0))
    row.capper.row_load(5_000.0, 0.0)
    row.grant(1, columns(watts=500.0), brake=TABLE)
    row.live(0.5, at(0.98), renew=False)
    assert row.limits() == (250.0, 350.0)
    row.capper.close()
