"""What one command does: set, clamped, refused, recommended; always answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.capper.errors import CapperError
from agents.capper.settings import CapperSettings
from tests.fakes.capper_rig import ALLOWED, GPUS, Rig, columns


def test_a_grant_sets_reads_back_and_says_so(rig: Rig) -> None:
    ack = rig.grant(1, columns(watts=500))
    assert (ack.event, ack.epoch, ack.seq, ack.mode, ack.strategy) == ("command", 1, 1, "on", "balanced")
    assert ack.gpu.status == ("applied", "applied")
    assert ack.gpu.requested_limit_w == (500.0, 500.0)
    assert ack.gpu.effective_limit_w == (500.0, 500.0)
    assert ack.gpu.previous_limit_w == (700.0, 700.0)
    assert ack.gpu.measured_w == (321.0, 321.0)
    assert ack.gpu.requested_sm_mhz == (1980, 1980)
    assert ack.gpu.effective_sm_mhz == (None, None)
    assert (ack.latency_ms, ack.actuator, ack.quality) == (0.0, "fake_power+fake_clock", "simulated")
    assert ack.gpu.reason[0] == "limit 500 W; clocks 900-1980 MHz"


def test_acks_are_numbered(rig: Rig) -> None:
    first, second = rig.grant(1), rig.grant(2)
    assert (first.capper_id, first.ack_seq + 1) == (second.capper_id, second.ack_seq)


def test_without_opt_in_nothing_is_set_and_the_reason_says_who_can_change_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=CapperSettings())
    ack = rig.grant(1)
    assert ack.gpu.status == ("refused", "refused")
    assert ack.gpu.reason[0] == "opt_in: this node has not opted in; its owner sets opt_in = true to allow commands"
    assert rig.set_calls == 0
    assert not (tmp_path / "save.json").exists()


@pytest.mark.parametrize("max_mode", ["observe", "recommend"])
def test_a_node_that_only_watches_answers_recommended(tmp_path: Path, max_mode: str) -> None:
    rig = Rig(tmp_path, settings=replace(ALLOWED, max_mode=max_mode))
    ack = rig.grant(1)
    assert ack.gpu.status == ("recommended", "recommended")
    assert ack.gpu.reason[0] == f"this node allows mode {max_mode} at most: nothing is set"
    assert rig.set_calls == 0


@pytest.mark.parametrize("mode", ["observe", "recommend"])
def test_advice_sets_nothing_and_ends_what_was_set(rig: Rig, mode: str) -> None:
    rig.grant(1)
    ack = rig.grant(2, mode=mode)
    assert ack.gpu.status == ("restored", "restored")
    assert rig.grant(3, mode=mode).gpu.status == ("recommended", "recommended")
    assert rig.untouched()


def test_a_mode_above_the_owners_is_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=replace(ALLOWED, max_mode="canary"))
    assert rig.grant(1, mode="on").gpu.reason[0] == "mode: mode on is above this node's max_mode canary"
    assert rig.grant(2, mode="canary").gpu.status == ("applied", "applied")


def test_a_tighter_ceiling_clamps(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=replace(ALLOWED, power_ceiling_w=450.0))
    ack = rig.grant(1, columns(watts=500))
    assert ack.gpu.status == ("clamped", "clamped")
    assert ack.gpu.effective_limit_w == (450.0, 450.0)
    assert "500 W held to 450 W, the owner's ceiling" in ack.gpu.reason[0]


def test_an_owners_ceiling_below_the_device_is_refused_and_never_tried(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=replace(ALLOWED, power_ceiling_w=50.0))
    assert rig.grant(1, columns(watts=500)).gpu.reason[0] == (
        "ceiling: the owner's ceiling, 50 W, is below the device's minimum, 200 W; raise power_ceiling_w to at least "
        "that, or ask for clocks only"
    )
    assert rig.set_calls == 0 and not (tmp_path / "save.json").exists()
    assert rig.grant(2, columns(watts=None)).gpu.status == ("applied", "applied"), "clocks are free, nobody is shunned"
    assert rig.capper.events() == []


def test_a_small_step_is_set_too(rig: Rig) -> None:
    rig.grant(1, columns(watts=600))
    assert rig.grant(2, columns(watts=599.5)).gpu.effective_limit_w == (599.5, 599.5)


def test_a_renewal_does_not_set_again_what_the_device_rounds(rig: Rig) -> None:
    assert rig.power is not None
    rig.power.rounding(0.5)
    for seq in (1, 2, 3):
        assert rig.grant(seq).gpu.effective_limit_w == (499.5, 499.5)
    assert rig.power.set_calls == 2, "once per GPU"


def test_what_was_found_is_never_raised(rig: Rig) -> None:
    assert rig.power is not None
    rig.power.foreign_writer("GPU-a", 400.0)
    ack = rig.grant(1, columns(watts=500))
    assert ack.gpu.status == ("clamped", "applied")
    assert ack.gpu.effective_limit_w == (400.0, 500.0)
    assert "the value found before us" in ack.gpu.reason[0]


def test_below_a_floor_is_refused_and_the_other_gpu_goes_on(rig: Rig) -> None:
    ack = rig.grant(1, columns(watts=[150.0, 500.0]))
    assert ack.gpu.status == ("refused", "applied")
    assert ack.gpu.reason[0] == "floor: 150 W is below 200 W, the device's minimum"


def test_changes_faster_than_the_rate_are_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=replace(ALLOWED, min_power_interval_s=5.0))
    rig.grant(1, columns(watts=500))
    rig.advance(1)
    ack = rig.grant(2, columns(watts=400))
    assert ack.gpu.reason[0] == "rate: the limit changed 1.00 s ago, 5 s must pass"
    assert ack.gpu.effective_limit_w == (500.0, 500.0)
    rig.advance(5)
    assert rig.grant(3, columns(watts=400)).gpu.effective_limit_w == (400.0, 400.0)


def test_a_large_step_is_taken_in_parts(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=replace(ALLOWED, max_step_w=150.0))
    assert rig.grant(1, columns(watts=300)).gpu.effective_limit_w == (550.0, 550.0)
    assert rig.grant(2, columns(watts=300)).gpu.effective_limit_w == (400.0, 400.0)
    last = rig.grant(3, columns(watts=300))
    assert (last.gpu.status[0], last.gpu.effective_limit_w[0]) == ("applied", 300.0)


def test_a_holdout_is_never_set(rig: Rig) -> None:
    ack = rig.grant(1, columns(holdout=[True, False]))
    assert ack.gpu.status == ("refused", "applied")
    assert ack.gpu.reason[0].startswith("holdout: ")
    assert rig.power is not None and rig.power.values["GPU-a"] == 700.0
    assert rig.capper.set_clocks({"GPU-a": 1200}) == {"GPU-a": None}


def test_a_holdout_that_is_asked_for_nothing_is_left_in_peace(rig: Rig) -> None:
    ack = rig.grant(1, columns(watts=None, low=None, high=None, holdout=[True, True]))
    assert ack.gpu.status == ("applied", "applied")
    assert ack.gpu.reason[0] == "hold-out: left at its own value"
    assert rig.set_calls == 0


def test_nulls_give_back_what_was_granted_before(rig: Rig) -> None:
    rig.grant(1)
    rig.capper.set_clocks({"GPU-a": 1200})
    ack = rig.grant(2, columns(watts=None, low=None, high=None))
    assert ack.gpu.status == ("restored", "restored")
    assert rig.untouched()


def test_an_unknown_gpu_is_refused_alone(rig: Rig) -> None:
    ack = rig.grant(1, columns(("GPU-a", "GPU-elsewhere")))
    assert ack.gpu.status == ("applied", "refused")
    assert ack.gpu.reason[1] == "unknown_gpu: GPU-elsewhere is none of the 2 GPUs of this node"


def test_gpus_dropped_from_a_renewed_envelope_are_put_back(rig: Rig) -> None:
    rig.grant(1)
    ack = rig.grant(2, columns(("GPU-a",)))
    assert ack.gpu.uuid == ("GPU-a",)
    (event,) = rig.capper.events()
    assert (event.event, event.gpu.uuid, event.gpu.status) == ("restore", ("GPU-b",), ("restored",))
    assert event.gpu.previous_limit_w == (700.0,)
    assert rig.power is not None and rig.power.values == {"GPU-a": 500.0, "GPU-b": 700.0}


def test_the_same_command_again_gets_the_same_answer_and_no_second_set(rig: Rig) -> None:
    raw = rig.raw(1)
    first = rig.send(raw)
    calls = rig.set_calls
    rig.grant(2, columns(watts=400))
    assert rig.send(raw) is first
    assert rig.set_calls == calls + len(GPUS)
    assert rig.power is not None and rig.power.values["GPU-a"] == 400.0


def test_an_unchanged_grant_renews_and_sets_nothing(rig: Rig) -> None:
    rig.grant(1)
    calls = rig.set_calls
    rig.run(9)
    assert rig.grant(2).gpu.status == ("applied", "applied")
    rig.run(9)
    assert rig.set_calls == calls
    assert rig.capper.events() == []


def test_a_node_without_a_power_knob_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, power=False)
    ack = rig.grant(1, columns(watts=500))
    assert ack.gpu.status == ("clamped", "clamped")
    assert ack.gpu.reason[0] == "no power limit can be set on this GPU here; clocks 900-1980 MHz"
    assert rig.grant(2, columns(watts=500, low=None, high=None)).gpu.reason[0].startswith("no_actuator: ")


def test_a_node_without_a_clock_knob_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, clock=False)
    assert rig.grant(1, columns(watts=500)).gpu.status == ("clamped", "clamped")
    assert rig.grant(2, columns(watts=None)).gpu.reason[0].startswith("no_actuator: ")
    assert rig.capper.set_clocks({"GPU-a": 1200}) == {"GPU-a": None}


def test_a_capper_with_nothing_to_set_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(CapperError, match="neither a power nor a clock actuator"):
        Rig(tmp_path, power=False, clock=False)


def test_before_start_nothing_is_obeyed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, start=False)
    with pytest.raises(CapperError, match="is not started"):
        rig.grant(1)


def test_status_tells_what_is_in_force(rig: Rig) -> None:
    rig.grant(3, columns(("GPU-a",), watts=450))
    rig.advance(4)
    status = rig.capper.status()
    assert status["mark"] == [1, 3]
    gpus = status["gpus"]
    assert isinstance(gpus, dict)
    assert gpus["GPU-a"]["held"] == {"sm_lock_mhz": None, "power_limit_w": 450.0}
    assert gpus["GPU-a"]["previous"] == {"sm_lock_mhz": None, "power_limit_w": 700.0}
    assert gpus["GPU-a"]["lease_s"] == 6.0
    assert gpus["GPU-b"]["lease_s"] is None
