"""The node's fast loop: grants, leases, engines, hold-outs, refusals, a capper that comes and goes."""

from __future__ import annotations

from math import log2
from typing import Any

import pytest

from agents.node.control_loop import ControlLoop
from agents.node.controllers import local_controller
from agents.node.engine_signal import Columns, Window
from agents.node.envelope import NO_TARGETS
from agents.node.errors import CapperSilent
from models.control.types import ClockBounds, Decision, EngineState, Observed, Targets
from streams.contract.records import NO_CAPPER, SILENT_CAPPER, Histogram, PowerApplied
from tests.fakes.controllers import Unlearning
from tests.fakes.sources import UUIDS, FakeCapper, applied, desired, engine, gpu_columns, telemetry


class Scripted(Unlearning):
    """A controller that answers what the test wants and keeps what it was asked."""

    def __init__(self, mhz: int | None = 1500) -> None:
        self.mhz = mhz
        self.asked: list[dict[str, Any]] = []

    def step(
        self,
        now_s: float,
        state: EngineState | None,
        *,
        targets: Targets,
        bounds: ClockBounds,
        throttle: int,
        observed: Observed | None,
    ) -> Decision:
        self.asked.append(
            {"state": state, "targets": targets, "bounds": bounds, "throttle": throttle, "observed": observed}
        )
        return Decision(self.mhz, "scripted")


class Bench:
    def __init__(self, mhz: int | None = 1500) -> None:
        self.now = 100.0
        self.capper = FakeCapper()
        self.controllers: list[Scripted] = []
        self.mhz = mhz
        self.loop = ControlLoop(
            "n1", self.capper, self._make, cluster="c", monotonic=lambda: self.now, wall_ns=lambda: 7
        )

    def _make(self, *_: object) -> Scripted:
        self.controllers.append(Scripted(self.mhz))
        return self.controllers[-1]

    def step(self, seconds: float = 0.5, **fields: Any) -> None:
        self.now += seconds
        self.loop.step(self.now, telemetry(int(self.now * 1e9), **fields))


def test_one_clock_for_all_gpus_of_an_engine() -> None:
    bench = Bench()
    bench.loop.on_command(desired(), 0)
    bench.step()
    assert bench.capper.locks == dict.fromkeys(UUIDS, 1500)
    assert bench.loop.locks == dict.fromkeys(UUIDS, 1500)
    assert len(bench.controllers) == 2
    asked = bench.controllers[0].asked[0]
    assert asked["bounds"] == ClockBounds(990, 1980, 1980, 15)
    assert asked["targets"] == Targets(50.0, 2000.0, None)
    assert asked["state"] == EngineState(0.0, 8, 0, 0, 9000)


def test_sends_only_what_changes() -> None:
    bench = Bench()
    bench.loop.on_command(desired(), 0)
    bench.step()
    bench.step()
    assert len(bench.capper.calls) == 1
    bench.controllers[1].mhz = 1400
    bench.step()
    assert bench.capper.calls[1] == dict.fromkeys(UUIDS[4:], 1400)


def test_without_a_grant_nothing_is_touched() -> None:
    bench = Bench()
    bench.step()
    assert bench.capper.calls == []
    assert [one.asked for one in bench.controllers] == [[], []]  # they watch and learn, and are asked nothing


def test_a_decision_outside_the_envelope_is_brought_inside() -> None:
    bench = Bench(600)
    bench.loop.on_command(desired(), 0)
    bench.step()
    assert set(bench.capper.locks.values()) == {990}


def test_an_engine_with_a_holdout_gpu_is_never_touched() -> None:
    bench = Bench()
    bench.loop.on_command(desired(holdout=(5,)), 0)
    bench.step()
    released = dict.fromkeys((UUIDS[4], *UUIDS[6:]), None)
    assert bench.capper.calls == [{**dict.fromkeys(UUIDS[:4], 1500), **released}]
    assert bench.loop.reasons["n1/r1"] == "not every GPU of the engine is granted"


@pytest.mark.parametrize("answer", ["refused", "expired"])
def test_a_refused_grant_changes_nothing(answer: str) -> None:
    bench = Bench()
    bench.loop.on_command(desired(1), 0)
    bench.step()
    bench.capper.answer = answer
    bench.loop.on_command(desired(2, low=1900), 0)
    bench.step()
    assert set(bench.capper.locks.values()) == {1500}
    assert bench.loop.refusals_total == 1
    assert [ack.gpu.status[0] for ack in bench.loop.acks()] == ["applied", answer]


def test_a_mode_turned_down_releases_at_once() -> None:
    bench = Bench()
    bench.loop.on_command(desired(1), 0)
    bench.step()
    bench.capper.answer = "recommended"
    bench.loop.on_command(desired(2, mode="recommend"), 0)
    assert set(bench.capper.locks.values()) == {None}
    assert bench.loop.live is None


def test_the_lease_ends_on_the_monotonic_clock_from_receipt() -> None:
    bench = Bench()
    bench.loop.on_command(desired(ttl_ms=10_000), 0)
    bench.step(9.5)
    assert bench.loop.remaining_s(bench.now) == pytest.approx(0.5)
    assert set(bench.capper.locks.values()) == {1500}
    bench.step(0.5)
    assert set(bench.capper.locks.values()) == {None}
    assert bench.loop.remaining_s(bench.now) is None


def test_a_silent_engine_is_released_after_two_seconds() -> None:
    bench = Bench()
    bench.loop.on_command(desired(), 0)
    record = telemetry(0)
    for _ in range(5):
        bench.now += 0.5
        bench.loop.step(bench.now, record)
    assert set(bench.capper.locks.values()) == {1500}
    bench.now += 0.5
    bench.loop.step(bench.now, record)
    assert set(bench.capper.locks.values()) == {None}
    assert bench.controllers[0].asked[-1]["state"].age_s == pytest.approx(2.5)


def test_an_old_reading_is_old_at_once() -> None:
    bench = Bench()
    bench.loop.on_command(desired(), 0)
    bench.step(engines=(engine(0, ts_ns=int(97e9)),))
    assert bench.capper.calls == [dict.fromkeys(UUIDS, None)]


def test_an_engine_that_vanished_is_released() -> None:
    bench = Bench()
    bench.loop.on_command(desired(), 0)
    bench.step()
    bench.step(engines=(engine(0, ts_ns=int(101e9)),))
    assert bench.capper.locks == {**dict.fromkeys(UUIDS[:4], 1500), **dict.fromkeys(UUIDS[4:], None)}


def test_events_are_passed_on_and_end_the_envelope() -> None:
    bench = Bench()
    bench.loop.on_command(desired(), 0)
    bench.step()
    bench.loop.acks()
    bench.capper.pending = [applied("expiry", "expired")]
    bench.step()
    assert [ack.event for ack in bench.loop.acks()] == ["expiry"]
    assert bench.loop.acks() == []
    assert bench.loop.live is None
    assert bench.capper.locks == bench.loop.locks == dict.fromkeys(UUIDS, None)


def test_an_event_for_some_gpus_ends_their_grants_only() -> None:
    bench = Bench()
    bench.loop.on_command(desired(), 0)
    bench.step()
    bench.capper.pending = [applied("restore", "expired", uuids=UUIDS[:1])]
    bench.step()
    assert bench.loop.live is not None
    assert bench.capper.locks == {**dict.fromkeys(UUIDS[:4], None), **dict.fromkeys(UUIDS[4:], 1500)}


def test_an_event_of_an_older_command_does_not_end_the_newer_grant() -> None:
    bench = Bench()
    bench.loop.on_command(desired(2), 0)
    bench.step()
    bench.capper.pending = [applied("expiry", "expired", seq=1)]
    bench.step()
    assert bench.loop.live is not None
    assert bench.capper.calls == [dict.fromkeys(UUIDS, 1500)] * 2


def test_yields_to_a_foreign_change_until_the_next_grant() -> None:
    bench = Bench()
    bench.loop.on_command(desired(1), 0)
    bench.step()
    bench.capper.pending = [applied("foreign_change", "refused", uuids=UUIDS[:1])]
    bench.capper.calls.clear()
    bench.controllers[0].mhz = 1400
    bench.step()
    assert bench.capper.calls == [dict.fromkeys(UUIDS[1:4], None)]
    bench.loop.on_command(desired(2), 0)
    bench.step()
    assert bench.capper.locks[UUIDS[0]] == 1400


def test_a_lock_that_does_not_move_is_not_hammered() -> None:
    bench = Bench()
    bench.capper.stuck = {UUIDS[0]}
    bench.loop.on_command(desired(1), 0)
    bench.step()
    bench.step()
    assert len(bench.capper.calls) == 1
    assert bench.loop.locks[UUIDS[0]] is None
    bench.loop.on_command(desired(2), 0)
    bench.step()
    bench.step()
    assert bench.capper.calls[1:] == [dict.fromkeys(UUIDS, 1500)]


def test_a_capper_that_is_gone_refuses_every_command_and_is_taken_up_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.loop.on_command(desired(1), 0)
    bench.step()
    bench.capper.gone = True
    bench.step()
    bench.step()
    ack = bench.loop.on_command(desired(2), 0)
    assert set(ack.gpu.status) == {"refused"}
    assert "does not answer" in ack.gpu.reason[0]
    assert (ack.seq, ack.ts_ns, ack.cluster, ack.capper_id) == (2, 7, "c", NO_CAPPER)
    assert bench.loop.on_command(b"junk", 0).gpu.uuid == ()
    assert len([r for r in caplog.records if "does not answer" in r.message]) == 1
    bench.capper.gone = False
    bench.capper.locks.clear()
    bench.step()
    bench.loop.on_command(desired(3), 0)
    bench.step()
    assert set(bench.capper.locks.values()) == {1500}


def test_a_capper_that_took_a_command_and_fell_silent_is_told_from_one_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()

    def grant(raw: bytes, *, received_ns: int) -> PowerApplied:
        raise CapperSilent("the capper did not answer; what it did is unknown until its next event")

    monkeypatch.setattr(bench.capper, "grant", grant)
    ack = bench.loop.on_command(desired(1), 0)
    assert ack.capper_id == SILENT_CAPPER and "unknown" in ack.gpu.reason[0]


def test_throttle_bits_of_any_gpu_reach_the_controller() -> None:
    bench = Bench()
    bench.loop.on_command(desired(), 0)
    bench.step(gpu=gpu_columns(throttle=(0, 0x20, None, 0x40, 0, 0, 0, 0)))
    assert [c.asked[0]["throttle"] for c in bench.controllers] == [0x60, 0]


def test_the_real_controller_fits_and_stays_inside_the_envelope() -> None:
    bench = Bench()
    loop = ControlLoop("n1", bench.capper, local_controller, monotonic=lambda: 100.0)
    loop.on_command(desired(), 0)
    for second in range(12):
        loop.step(100.0 + second, telemetry(second * 10**9))
    assert set(loop.reasons) == {"n1/r0", "n1/r1"}
    assert all(mhz is None or 990 <= mhz <= 1980 for mhz in loop.locks.values())


def test_the_window_learns_once_per_reading() -> None:
    columns, window = Columns(telemetry()), Window()
    tbt = Histogram(index=(160, 161), count=(50, 50), sum_ms=3200.0)
    first = engine(0, ts_ns=0, prompt_tokens_total=1000, tbt=tbt)
    second = engine(0, ts_ns=10**9, prompt_tokens_total=1600, tbt=tbt)
    assert window.observe(first, columns, (0, 1, 2, 3), NO_TARGETS).prompt_tokens_per_s is None
    seen = window.observe(second, columns, (0, 1, 2, 3), NO_TARGETS)
    assert (seen.tbt_mean_ms, seen.sm_mhz, seen.power_w, seen.prompt_tokens_per_s) == (32.0, 1980, 400.0, 600.0)
    assert seen.tbt_p99_ms == pytest.approx(33.4, abs=0.5)
    assert window.observe(second, columns, (0,), NO_TARGETS) == Observed(None, None, None, 600.0)
    restarted = engine(0, ts_ns=2 * 10**9, prompt_tokens_total=5)
    assert window.observe(restarted, columns, (0,), NO_TARGETS).prompt_tokens_per_s is None


def test_the_window_counts_who_came_later_than_the_targets() -> None:
    columns, window = Columns(telemetry()), Window()
    late = Histogram(index=(221, 300), count=(60, 40), sum_ms=9_000.0)  # about 120 and 670 ms
    targets = Targets(None, 400.0, 1e12)
    seen = window.observe(engine(0, ts_ns=0, ttft=late, e2e=late), columns, (0,), targets)
    assert (seen.first_tokens, seen.late_first_tokens) == (100.0, 40.0)
    assert (seen.answers, seen.long_answers) == (None, None)  # a bound of thirty years is none
    assert seen.tbt_mean_ms is None
    silent = window.observe(engine(0, ts_ns=10**9, ttft=None), columns, (0,), targets)
    assert silent.first_tokens is None


def test_gaps_just_below_the_target_are_not_slow_and_those_clearly_over_it_are() -> None:
    """Full chunks lie just below the target, in a bucket of the histogram that reaches beyond it."""
    columns, window = Columns(telemetry()), Window()
    gaps = Histogram(index=(176, 185), count=(60, 40), sum_ms=5_000.0)  # about 45.7 and 55.6 ms
    for at, (target, slow) in enumerate(((46.0, 40.0), (54.0, 40.0 * (186.0 - 32.0 * log2(1.03 * 54.0))), (60.0, 0.0))):
        seen = window.observe(engine(0, ts_ns=at, tbt=gaps), columns, (0,), Targets(target, None, None))
        assert seen.gaps == 100.0 and seen.slow_gaps == pytest.approx(slow)
    assert window.observe(engine(0, ts_ns=9, tbt=gaps), columns, (0,), NO_TARGETS).slow_gaps is None


def test_the_tightest_limit_that_is_known_is_in_force_in_every_window() -> None:
    columns = Columns(telemetry(gpu=gpu_columns(limit_w=(700.0, None, 300.0, 650.0) * 2)))
    window = Window()
    for _ in range(2):  # the second asks again about the same reading
        assert window.observe(engine(0), columns, (0, 1, 2), NO_TARGETS).limit_w == 300.0
    assert columns.limit_w((1,)) is None
    assert Columns(telemetry(gpu=gpu_columns(limit_w=None))).limit_w((0,)) is None


def test_unknown_columns_stay_unknown() -> None:
    columns = Columns(telemetry(gpu=gpu_columns(power_w=(1.0, None) * 4, sm_mhz=None, throttle=None)))
    rows = columns.rows((*UUIDS[:2], "GPU-elsewhere"))
    assert rows == (0, 1)
    assert (columns.power_w(rows), columns.sm_mhz(rows), columns.throttle(rows)) == (None, None, 0)
    assert Columns(telemetry(gpu=None)).rows(UUIDS) == ()
