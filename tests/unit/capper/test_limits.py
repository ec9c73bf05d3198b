"""The node's own loop under a power lease: at or below the ceiling, put back, never against another writer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.capper import protocol, savefile
from agents.capper.errors import CapperError
from tests.fakes.capper_rig import ALLOWED, Rig, columns

SLOWLY = replace(ALLOWED, min_power_interval_s=0.5)


def watts(rig: Rig, uuid: str = "GPU-a") -> float | None:
    assert rig.power is not None
    return rig.power.values[uuid]


def test_a_limit_below_the_ceiling_is_set_once_and_goes_back_to_what_was_found(rig: Rig) -> None:
    rig.grant(1, columns(watts=700, low=None, high=None))
    assert rig.untouched() and not (rig.folder / "save.json").exists()
    assert rig.capper.set_limits({"GPU-a": 500.0}) == {"GPU-a": 500.0}
    saved = savefile.load(rig.folder)
    assert saved is not None and saved.power["GPU-a"].previous == 700.0
    calls = rig.set_calls
    assert rig.capper.set_limits({"GPU-a": 500.0}) == {"GPU-a": 500.0}
    assert rig.set_calls == calls
    assert rig.capper.set_limits({"GPU-a": None}) == {"GPU-a": 700.0}
    rig.capper.set_limits({"GPU-a": 450.0})
    rig.run(11)
    assert rig.untouched() and not (rig.folder / "save.json").exists()
    (event,) = rig.capper.events()
    assert event.event == "expiry" and event.gpu.status[0] == "restored" and event.gpu.previous_limit_w[0] == 700.0


def test_the_old_value_is_on_disk_before_the_limit_is_set(rig: Rig) -> None:
    assert rig.power is not None
    rig.grant(1, columns(watts=700, low=None, high=None))
    rig.capper.set_limits({"GPU-a": 500.0})
    rig.crash()
    assert watts(rig) == 500.0
    rig.restart()
    assert rig.untouched()


def test_a_renewal_leaves_the_chosen_limit_and_says_whose_it_is(rig: Rig) -> None:
    rig.grant(1, columns(watts=600))
    rig.capper.set_limits({"GPU-a": 500.0})
    calls = rig.set_calls
    for seq in (2, 3):
        ack = rig.grant(seq, columns(watts=600))
        assert ack.gpu.status == ("applied", "applied") and ack.gpu.effective_limit_w == (500.0, 600.0)
        assert "limit 500 W, chosen on the node within 600 W" in ack.gpu.reason[0]
    assert rig.set_calls == calls
    assert rig.grant(4, columns(watts=650)).gpu.effective_limit_w == (500.0, 650.0)
    assert rig.capper.set_limits({"GPU-a": None}) == {"GPU-a": 650.0}
    assert rig.grant(5, columns(watts=600)).gpu.effective_limit_w == (600.0, 600.0)


def test_a_ceiling_below_the_chosen_limit_wins(rig: Rig) -> None:
    rig.grant(1, columns(watts=600))
    rig.capper.set_limits({"GPU-a": 500.0})
    assert rig.grant(2, columns(watts=400)).gpu.effective_limit_w == (400.0, 400.0)
    assert rig.grant(3, columns(watts=600)).gpu.effective_limit_w == (600.0, 600.0)


def test_an_envelope_without_watts_ends_the_choice(rig: Rig) -> None:
    rig.grant(1, columns(watts=700))
    rig.capper.set_limits({"GPU-a": 500.0})
    rig.grant(2, columns(watts=None))
    assert watts(rig) == 700.0
    assert rig.capper.set_limits({"GPU-a": 500.0}) == {"GPU-a": 700.0}


def test_a_lease_that_ended_between_two_ticks_is_no_lease_of_the_choice(rig: Rig) -> None:
    rig.grant(1, columns(watts=700))
    rig.capper.set_limits({"GPU-a": 500.0})
    rig.advance(11)
    assert rig.capper.set_limits({"GPU-a": 450.0}) == {"GPU-a": 500.0}
    rig.grant(2, columns(watts=700))
    assert watts(rig) == 700.0


@pytest.mark.parametrize("wanted", [701.0, 50.0, 0.0, -1.0, math.nan, math.inf, True, "500"])
def test_what_no_lease_allows_changes_nothing_and_is_counted(rig: Rig, wanted: object) -> None:
    rig.grant(1, columns(watts=700))
    assert rig.capper.set_limits({"GPU-a": wanted, "GPU-z": 500.0}) == {"GPU-a": 700.0, "GPU-z": None}  # type: ignore[dict-item]
    assert rig.untouched()
    counts = rig.capper.status()["counts"]
    assert isinstance(counts, dict) and counts["limit_refused.outside_lease"] == 1


def test_a_held_out_gpu_has_no_ceiling(rig: Rig) -> None:
    rig.grant(1, columns(watts=(None, 700.0), low=None, high=None, holdout=(True, False)))
    assert rig.capper.set_limits({"GPU-a": 500.0, "GPU-b": 500.0}) == {"GPU-a": 700.0, "GPU-b": 500.0}


def test_lowering_waits_for_the_rate_and_a_return_to_the_ceiling_does_not(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=SLOWLY)
    rig.grant(1, columns(watts=700))
    rig.capper.set_limits({"GPU-a": 500.0})
    assert rig.capper.set_limits({"GPU-a": 450.0}) == {"GPU-a": 500.0}
    assert rig.capper.set_limits({"GPU-a": None}) == {"GPU-a": 700.0}
    rig.advance(0.6)
    assert rig.capper.set_limits({"GPU-a": 450.0}) == {"GPU-a": 450.0}


def test_the_owners_floor_ceiling_and_step_hold_for_the_loop_too(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings=replace(ALLOWED, power_floor_w=400.0, power_ceiling_w=650.0, max_step_w=100.0))
    rig.grant(1, columns(watts=650))
    assert rig.capper.set_limits({"GPU-a": 399.0}) == {"GPU-a": 650.0}
    assert rig.capper.set_limits({"GPU-a": 450.0}) == {"GPU-a": 550.0}
    assert rig.capper.set_limits({"GPU-a": 450.0}) == {"GPU-a": 450.0}


def test_a_foreign_change_is_left_and_told(rig: Rig) -> None:
    assert rig.power is not None
    rig.grant(1, columns(watts=700))
    rig.capper.set_limits({"GPU-a": 500.0})
    rig.power.values["GPU-a"] = 333.0
    assert rig.capper.set_limits({"GPU-a": 550.0}) == {"GPU-a": 333.0}
    (event,) = rig.capper.events()
    assert event.event == "foreign_change" and "power_limit_w was changed by others to 333" in event.gpu.reason[0]
    assert rig.capper.set_limits({"GPU-a": None}) == {"GPU-a": 333.0}


def test_a_device_out_of_band_is_not_searched_with(rig: Rig) -> None:
    assert rig.power is not None
    rig.power.latency_s = 40.0
    rig.grant(1, columns(watts=700))
    assert rig.capper.set_limits({"GPU-a": 500.0}) == {"GPU-a": 700.0} and rig.untouched()
    counts = rig.capper.status()["counts"]
    assert isinstance(counts, dict) and counts["limit_refused.slow"] == 1


def test_nothing_is_set_when_the_save_file_cannot_be_written(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.grant(1, columns(watts=700, low=None, high=None))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agents.capper.savefile.write", full)
    assert rig.capper.set_limits({"GPU-a": 500.0}) == {"GPU-a": 700.0} and rig.untouched()


def test_the_socket_takes_limits(rig: Rig) -> None:
    rig.grant(1, columns(watts=700))
    request = protocol.parse(b'{"op": "limits", "limits": {"GPU-a": 500, "GPU-b": null}}')
    answer = json.loads(protocol.answer(rig.capper, request, []))
    assert answer == {"ok": True, "effective": {"GPU-a": 500.0, "GPU-b": 700.0}}


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.sampled_from([None, 350.0, 600.0, 700.0])),
        st.tuples(st.just("limit"), st.sampled_from([None, 100.0, 350.0, 500.0, 650.0, 900.0])),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 4.0, 11.0])),
        st.tuples(st.just("die"), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(ACTS)
def test_no_order_of_grants_limits_and_crashes_passes_the_ceiling_or_leaves_anything(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, float | None]]
) -> None:
    rig, seq, ceiling = Rig(tmp_path_factory.mktemp("law")), 0, None
    for what, value in acts:
        if what == "grant":
            seq += 1
            rig.grant(seq, columns(watts=value))
            ceiling = value
        elif what == "limit":
            rig.capper.set_limits({"GPU-a": value})
        elif what == "wait":
            assert value is not None
            rig.run(value)
            ceiling = None if value > 10.0 else ceiling
        else:
            rig.crash()
            rig.restart()
            ceiling = None
        now = watts(rig)
        assert now is not None and 200.0 <= now <= 700.0
        if rig.capper._gpus["GPU-a"].lease is None or ceiling is None:
            assert now == 700.0
        else:
            assert now <= ceiling
    rig.run(12)
    assert rig.untouched()
    try:
        rig.capper.close()
    except CapperError as error:
        raise AssertionError(str(error)) from error
