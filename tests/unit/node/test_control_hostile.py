"""The control loop with the real controller and engines that say what cannot be: no error, and default clocks."""

from __future__ import annotations

from math import inf, nan
from random import Random
from typing import Any

import msgspec
import pytest

from agents.node.control_loop import ControlLoop
from agents.node.controllers import local_controller
from agents.node.drift_ack import of
from agents.node.engine_drive import ServingDrive, Situation
from agents.node.engine_signal import Columns
from agents.node.envelope import NO_TARGETS
from agents.node.misses import Misses, Slo, above
from models.control.types import ClockBounds, Health
from streams.contract.records import EngineReading, GpuColumns, Histogram, LatencyTarget, PowerDesired
from tests.fakes.sources import UUIDS, FakeCapper, desired, engine, gpu_columns, telemetry

GOOD = Histogram(index=(150, 155), count=(95, 5), sum_ms=2800.0)
TIGHT = 14.0  # ms between tokens: less than this stack reaches at any clock


class Rig:
    """One node, a lease that is renewed, steps of half a second."""

    def __init__(self) -> None:
        self.now, self.seq, self.capper = 100.0, 0, FakeCapper()
        self.loop = ControlLoop(
            "n1", self.capper, cluster="c", monotonic=lambda: self.now, wall_ns=lambda: int(self.now * 1e9)
        )

    def run(
        self,
        steps: int,
        *,
        targets: dict[str, float | None] | None = None,
        gpu: GpuColumns | None = None,
        **fields: Any,
    ) -> None:
        for _ in range(steps):
            self.now += 0.5
            if self.seq % 20 == 0:
                self.grant(targets)
            self.seq += 1
            self.step(gpu, **fields)

    def grant(self, targets: dict[str, float | None] | None) -> None:
        raw = desired(self.seq + 1)
        if targets is not None:
            told = tuple(LatencyTarget(engine=f"n1/r{slot}", **targets) for slot in (0, 1))
            raw = msgspec.json.encode(
                msgspec.structs.replace(msgspec.json.decode(raw, type=PowerDesired), targets=told)
            )
        self.loop.on_command(raw, 0)

    def step(self, gpu: GpuColumns | None, **fields: Any) -> None:
        ts_ns = int(self.now * 1e9)
        given = {"ts_ns": ts_ns, "tbt": GOOD, "prompt_tokens_total": self.seq * 50, **fields}
        fresh = tuple(engine(slot, **given) for slot in (0, 1))
        self.loop.step(self.now, telemetry(ts_ns, engines=fresh, gpu=gpu or gpu_columns()), fresh)

    @property
    def locks(self) -> set[int | None]:
        return set(self.capper.locks.values())


def settled() -> Rig:
    rig = Rig()
    rig.run(60)
    assert rig.locks - {None}, rig.loop.reasons
    return rig


IMPOSSIBLE: list[dict[str, Any]] = [
    {"running": -1},
    {"running": 2**62},
    {"waiting_tokens": -5},
    {"waiting_tokens": 2**62},
    {"kv_tokens": -(2**62)},
    {"running": None},
    {"waiting_tokens": None},
    {"kv_tokens": None},
]


@pytest.mark.parametrize("fields", IMPOSSIBLE)
def test_a_signal_that_cannot_be_releases_at_once_and_is_forgotten_afterwards(fields: dict[str, Any]) -> None:
    rig = settled()
    rig.run(2, **fields)
    assert rig.locks == {None}
    assert all("engine signal" in why for why in rig.loop.reasons.values())
    rig.run(60)
    assert rig.locks - {None}


@pytest.mark.parametrize(
    "tbt",
    [
        Histogram(index=(150,), count=(5,), sum_ms=nan),
        Histogram(index=(150,), count=(5,), sum_ms=inf),
        Histogram(index=(150,), count=(5,), sum_ms=-1e9),
        Histogram(index=(2**62,), count=(5,), sum_ms=1.0),
        Histogram(index=(-(2**62),), count=(5,), sum_ms=1.0),
        Histogram(index=(150, 151), count=(5,), sum_ms=1.0),
        Histogram(index=(150,), count=(2**53,), sum_ms=1e308),
        Histogram(scale=0, index=(2000,), count=(1,), sum_ms=1.0),
    ],
)
def test_gaps_that_cannot_be_neither_stop_the_loop_nor_lower_a_clock_below_its_bounds(tbt: Histogram) -> None:
    rig = settled()
    rig.run(20, tbt=tbt, ttft=tbt, e2e=tbt)
    assert all(mhz is None or 990 <= mhz <= 1980 for mhz in rig.locks)
    for name in ("n1/r0", "n1/r1"):
        report = rig.loop.report(name)
        assert report is not None and msgspec.json.encode(report)
    rig.run(80)
    assert all(mhz is None or 990 <= mhz <= 1980 for mhz in rig.locks)


@pytest.mark.parametrize("shift_s", [-3600.0, -5.0, 5.0, 3600.0])
def test_an_engine_whose_clock_is_elsewhere_is_no_signal(shift_s: float) -> None:
    rig = settled()
    for _ in range(4):
        rig.now += 0.5
        rig.step(None, ts_ns=int((rig.now + shift_s) * 1e9))
    assert rig.locks == {None}
    assert all("s old, bound 2 s" in why for why in rig.loop.reasons.values())


def test_a_monotonic_clock_that_goes_back_gives_default_clocks() -> None:
    rig = settled()
    rig.now -= 50.0
    rig.loop.live = None
    rig.run(1)
    rig.grant(None)
    rig.run(1)
    assert rig.locks == {None}
    rig.run(60)
    assert rig.locks - {None}


def test_targets_below_what_default_clocks_reach_are_said_and_nothing_is_lowered() -> None:
    rig = Rig()
    rig.run(40, targets={"tbt_ms": TIGHT, "ttft_ms": 2000.0})
    assert rig.locks <= {None}
    assert all(why.endswith(f"over {TIGHT} ms even at 1980 MHz: default clocks") for why in rig.loop.reasons.values())


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_target_that_cannot_be_is_default_clocks(bad: float) -> None:
    rig = Rig()
    rig.run(40, targets={"tbt_ms": 60.0, "ttft_ms": bad})
    assert rig.locks <= {None}
    assert all("cannot be kept at any clock" in why for why in rig.loop.reasons.values())


def test_an_unknown_stack_never_goes_below_95_percent_and_no_signal_is_default() -> None:
    rig, seen = Rig(), set[int | None]()
    for _ in range(80):
        rig.run(1, stack="somebody/elses")
        seen |= rig.locks
    assert min(mhz for mhz in seen if mhz is not None) >= 0.95 * 1980
    rig.run(4, stack="somebody/elses", running=None)
    assert rig.locks == {None}
    report = rig.loop.report("n1/r0")
    assert report is not None and report.decode_ratio is None


def test_gpu_columns_that_cannot_be_stop_nothing() -> None:
    for columns in (
        {"sm_mhz": (-5,) * 8, "power_w": (nan,) * 8},
        {"sm_mhz": (2**62,) * 8, "power_w": (1e308,) * 8},
        {"sm_max_mhz": (0,) * 8},
        {"sm_max_mhz": (-1980,) * 8},
        {"sm_max_mhz": (None,) * 8, "throttle": (-1,) * 8},
    ):
        rig = settled()
        rig.run(20, gpu=gpu_columns(**columns))
        assert all(mhz is None or 990 <= mhz <= 1980 for mhz in rig.locks)


def test_random_nonsense_for_a_long_time() -> None:
    """Everything at once, a thousand times: no error, and every lock inside the envelope."""
    rng, rig = Random(7), Rig()

    def odd() -> Any:
        return rng.choice([None, 0, 1, 7, 100, 2**40, -3, 2**62])

    for _ in range(1000):
        histogram = Histogram(
            index=(rng.choice([-500, 0, 150, 400]),), count=(rng.choice([0, 1, 2**40]),),
            sum_ms=rng.choice([0.0, 30.0, nan, inf, -5.0, 1e300]),
        )  # fmt: skip
        rig.run(
            1, running=odd(), waiting_tokens=odd(), kv_tokens=odd(), prompt_tokens_total=odd(), tbt=histogram,
            ttft=histogram, requests_total=odd(),
        )  # fmt: skip
        assert all(mhz is None or 990 <= mhz <= 1980 for mhz in rig.locks)


def test_a_controller_that_fails_costs_its_own_engine_the_grant_and_not_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def step(self, *_args: object, **_kwargs: object) -> Any:
            raise ZeroDivisionError("float division by zero")

        watch = step

        def health(self) -> Health:
            return Health()

    rig = Rig()
    rig.loop._make = lambda *_: Broken()
    rig.run(10)
    assert rig.locks <= {None}
    assert "cannot use what this engine says (float division by zero): default clocks" in rig.loop.reasons["n1/r0"]
    assert len([r for r in caplog.records if "its controller fails" in r.message]) == 2  # once for each engine


def test_engines_whose_names_change_all_the_time_do_not_fill_the_memory() -> None:
    rig = Rig()
    for number in range(500):
        rig.now += 0.5
        ts_ns = int(rig.now * 1e9)
        one = msgspec.structs.replace(engine(0, ts_ns=ts_ns), engine=f"n1/{number}")
        rig.loop.step(rig.now, telemetry(ts_ns, engines=(one,)), (one,))
    assert len(rig.loop._drives) <= 80 and len(rig.loop.reasons) <= 80 and len(rig.loop._chosen) == 1


# --- misses ---


def readings(*, over_ms: float, count: int, ts_s: float, mean_gap_ms: float = 30.0) -> EngineReading:
    place = 32 * 11  # 2 s is just below 2**11 ms
    ttft = Histogram(index=(place if over_ms else 200,), count=(count,), sum_ms=1.0)
    tbt = Histogram(index=(160,), count=(100,), sum_ms=100 * mean_gap_ms)
    return engine(0, ts_ns=int(ts_s * 1e9), ttft=ttft, tbt=tbt)


def test_misses_are_counted_once_a_reading_and_a_slow_mean_misses_them_all() -> None:
    misses = Misses(Slo(), 0.0)
    good = readings(over_ms=0.0, count=100, ts_s=1.0)
    assert not misses.take(good, 1.0) and not misses.take(good, 1.5)
    assert misses.missed_ratio == 0.0
    assert misses.take(readings(over_ms=2048.0, count=2, ts_s=2.0), 2.0)
    assert misses.missed_ratio == pytest.approx(2 / 102)
    slow = Misses(Slo(), 0.0)
    assert slow.take(readings(over_ms=0.0, count=60, ts_s=1.0, mean_gap_ms=101.0), 1.0)


def test_a_repeated_rollback_says_that_it_is_one_and_how_long_it_lasts() -> None:
    drive, said = ServingDrive(local_controller("unknown", None), now_s=0.0, slo=Slo()), []
    for minute in range(1, 200):
        over_ms = 2048.0 if minute in (2, 90) else 0.0
        one = readings(over_ms=over_ms, count=100, ts_s=60.0 * minute)
        bounds = ClockBounds(990, 1980, 1980, 15)
        now = Situation(one, Columns(telemetry()), (0,), 0.1, bounds, NO_TARGETS, 15)
        said.append(drive.decide(60.0 * minute, now).reason)
    assert said[1] == "50.0% of the last hour's requests missed the SLO, bound 1 %: default clocks"
    assert "SLO" not in said[75]
    assert (
        said[170]
        == "more than 1% of an hour's requests missed the SLO twice within a day: default clocks for another 39 min"
    )


def test_without_first_tokens_finished_requests_are_counted_and_without_both_nothing() -> None:
    misses = Misses(Slo(), 0.0)
    for second in range(4):
        one = engine(
            0, ts_ns=second * 10**9, requests_total=second * 40, tbt=Histogram(index=(1,), count=(5,), sum_ms=1e3)
        )
        misses.take(one, float(second))
    assert misses.missed_ratio == 1.0  # 200 ms between tokens
    silent = Misses(Slo(), 0.0)
    for second in range(4):
        assert not silent.take(engine(0, ts_ns=second * 10**9), float(second))
    assert silent.missed_ratio is None


def test_counts_above_a_bound_are_spread_inside_its_own_bucket() -> None:
    histogram = Histogram(index=(319, 320, 321), count=(10, 10, 10), sum_ms=1.0)
    assert above(histogram, 2.0 ** (320.5 / 32)) == pytest.approx(15.0)
    assert above(histogram, 2.0**10) == pytest.approx(20.0)  # bucket 320 begins at 2**10


# --- the word that it sends ---


def test_a_lock_that_did_not_go_back_is_refused_in_the_agents_own_name() -> None:
    ack = of(
        "model drift: so it is", UUIDS[:2], node="n1", cluster="c", now_ns=9, locks={UUIDS[1]: 1500}, live=None,
        telemetry=telemetry(5),
    )  # fmt: skip
    assert ack.gpu.status == ("restored", "refused")
    assert ack.gpu.reason[1] == "restore: the lock is still at 1500 MHz; model drift: so it is"
    assert ack.gpu.effective_sm_mhz == (None, 1500) and ack.gpu.measured_w == (400.0, 400.0)
    assert (ack.event, ack.quality, ack.ack_seq, ack.sample_ts_ns) == ("restore", "simulated", 9, 5)
