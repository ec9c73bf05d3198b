"""The ledger job on stand-ins: which commands get a line, what it measures, and that nothing is lost on a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from nacl.signing import SigningKey

from streams.contract.records import NO_CAPPER, SILENT_CAPPER, EnvelopeColumns, LedgerEntry, PowerDesired, Record
from streams.contract.signing import Signer
from streams.contract.topics import APPLIED, DESIRED, FEATURES, Topic
from streams.jobs.base import Outcome
from streams.jobs.ledger import LedgerJob
from streams.jobs.ledger_book import WINDOW_NS
from tests.unit.jobs.support import Clock, FakePublisher, FakeState, ack, context, features, messages

SIGNER = Signer(SigningKey(bytes(32)), "actuation")
S = 10**9


class Bench:
    def __init__(self, folder: Path, *, state: FakeState | None = None, clock: Clock | None = None) -> None:
        self.clock, self.state, self.offset = clock or Clock(), state or FakeState(), 0
        (folder / "keys").mkdir(parents=True, exist_ok=True)
        (folder / "keys" / "keyring").write_text(SIGNER.public_line() + "\n")
        self.ctx = context(folder, self.clock, state=self.state)
        self.job = LedgerJob()
        self.job.start(self.ctx)
        self.job.assign(frozenset({0}))
        self.acks = 0

    def feed(self, topic: Topic, *records: Record | bytes) -> Outcome:
        batch = messages(records, self.offset)
        self.offset += len(batch)
        return self.job.process(topic, 0, batch)

    def samples(self, seconds: int, power_w: float, tbt_ms: float = 30.0) -> None:
        for _ in range(seconds):
            self.clock.now_s += 1
            now = self.clock.wall_ns()
            self.feed(FEATURES, features("n1", now // S, ts_ns=now, power_w=power_w, tbt_ms={"n1-e0": tbt_ms}))
            list(self.job.tick())

    def command(self, seq: int, watts: float | None = 665.0, **more: object) -> PowerDesired:
        now, uuids = self.clock.wall_ns(), tuple(f"GPU-n1-{i}" for i in range(8))
        raw = PowerDesired(
            cluster="c1",
            node="n1",
            epoch=1,
            seq=seq,
            issued_at_ns=now,
            sample_ts_ns=now - S // 10,
            ttl_ms=15_000,
            on_expiry="restore",
            mode="on",
            strategy="balanced",
            policy_version="1",
            gpu=EnvelopeColumns(
                uuid=uuids,
                min_sm_mhz=(1200,) * 8,
                max_sm_mhz=(1980,) * 8,
                max_power_w=(watts,) + (665.0,) * 7,
                engine=("n1-e0",) * 4 + ("n1-e1",) * 4,
                holdout=(False,) * 8,
                reason=("because",) * 8,
            ),
            reason="",
        )
        return SIGNER.sign(msgspec.structs.replace(raw, **more))

    def answer(self, command: PowerDesired, **more: object) -> None:
        self.acks += 1
        record = ack(command, ts_ns=self.clock.wall_ns(), **{"ack_seq": self.acks, **more})
        self.feed(APPLIED, record)

    @property
    def publisher(self) -> FakePublisher:
        assert isinstance(self.ctx.publisher, FakePublisher)
        return self.ctx.publisher

    def lines(self, uuid: str = "GPU-n1-0") -> list[LedgerEntry]:
        return [entry for entry in self.publisher.of(LedgerEntry) if entry.gpu_uuid == uuid]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_command_is_closed_with_its_measured_effect(bench: Bench) -> None:
    bench.samples(30, power_w=500.0, tbt_ms=30.0)
    first = bench.command(1)
    assert bench.feed(DESIRED, first) is Outcome.HOLD
    bench.clock.now_s += 0.2
    bench.answer(first)
    bench.samples(25, power_w=420.0, tbt_ms=31.0)
    (line,) = bench.lines()
    assert (line.status, line.epoch, line.seq, line.requested_limit_w) == ("applied", 1, 1, 665.0)
    assert (line.power_before_w, line.power_after_w, line.effect_w) == (500.0, 420.0, -80.0)
    assert line.tbt_p99_before_ms == pytest.approx(30.0, rel=0.03)
    assert line.tbt_p99_after_ms == pytest.approx(31.0, rel=0.03)
    assert line.loop_ms == pytest.approx(300.0)
    assert line.closed_ns - (line.acked_ns or 0) == WINDOW_NS
    assert len(bench.publisher.of(LedgerEntry)) == 8


def test_renewals_that_change_nothing_leave_no_trace(bench: Bench) -> None:
    for seq in range(1, 8):
        command = bench.command(seq)
        bench.feed(DESIRED, command)
        bench.answer(command)
        bench.samples(5, power_w=400.0)
    bench.samples(25, power_w=400.0)
    assert len(bench.lines()) == 1


def test_a_changed_bound_gets_a_line_of_its_own_gpu_only(bench: Bench) -> None:
    for seq, watts in ((1, 665.0), (2, 600.0)):
        command = bench.command(seq, watts)
        bench.feed(DESIRED, command)
        bench.answer(command)
        bench.samples(5, power_w=400.0)
    bench.samples(25, power_w=400.0)
    assert [line.seq for line in bench.lines("GPU-n1-0")] == [1, 2]
    assert [line.seq for line in bench.lines("GPU-n1-1")] == [1]


def test_a_renewal_with_another_answer_gets_a_line(bench: Bench) -> None:
    for seq, status in ((1, "applied"), (2, "refused"), (3, "refused")):
        command = bench.command(seq)
        bench.feed(DESIRED, command)
        bench.answer(command, gpu=ack(command, ts_ns=0, status=status).gpu)
        bench.samples(25, power_w=400.0)
    assert [(line.seq, line.status) for line in bench.lines()] == [(1, "applied"), (2, "refused")]


def test_a_row_s_brake_gets_a_line_when_it_begins_and_when_it_ends(bench: Bench) -> None:
    bench.samples(20, 600.0)
    first = bench.command(1)
    bench.feed(DESIRED, first)
    bench.answer(first, status="clamped", reason="665 W held to 660 W, the owner's ceiling")
    bench.samples(25, 600.0)
    brake = {"issued_at_ns": None, "sample_ts_ns": None, "status": "clamped"}
    bench.answer(first, reason="brake: 250 W instead of 660 W, row r1 draws 98 kW", **brake)
    bench.samples(25, 250.0)
    renewal = bench.command(2)
    bench.feed(DESIRED, renewal)
    bench.answer(renewal, status="clamped", reason="brake: 255 W instead of 660 W, row r1 draws 50 kW")
    bench.answer(renewal, reason="brake released: back at 660 W", **{**brake, "status": "applied"})
    bench.samples(25, 600.0)
    told = [(line.status, line.status_reason.split(":")[0], line.effect_w) for line in bench.lines()]
    assert [t[:2] for t in told] == [
        ("clamped", "665 W held to 660 W, the owner's ceiling"),
        ("clamped", "brake"),
        ("applied", "brake released"),
    ]
    assert told[1][2] == pytest.approx(-350.0, abs=20) and bench.lines()[1].loop_ms is None


def test_an_unanswered_command_is_said_to_be(bench: Bench) -> None:
    bench.feed(DESIRED, bench.command(1))
    bench.samples(25, power_w=400.0)
    (line,) = bench.lines()
    assert (line.status, line.acked_ns, line.effect_w) == ("unanswered", None, None)
    assert line.status_reason == "no answer within 20 s"


def test_a_capper_that_took_the_command_and_fell_silent_is_unanswered_not_refused(bench: Bench) -> None:
    command = bench.command(1)
    bench.feed(DESIRED, command)
    gpu = ack(command, ts_ns=0, status="refused").gpu
    bench.answer(command, gpu=gpu, capper_id=SILENT_CAPPER, ack_seq=bench.clock.wall_ns())
    bench.samples(25, power_w=400.0)
    (line,) = bench.lines()
    assert (line.status, line.loop_ms) == ("unanswered", None)


def test_the_agent_s_own_answer_does_not_make_a_repeated_one_count_again(bench: Bench) -> None:
    command = bench.command(1)
    event = ack(command, ts_ns=bench.clock.wall_ns(), status="restored", event="restore", ack_seq=1)
    other = bench.command(2)
    own = ack(other, ts_ns=bench.clock.wall_ns(), status="refused", capper_id=NO_CAPPER, ack_seq=10**18)
    bench.feed(DESIRED, command)
    bench.feed(APPLIED, event, own, event)
    bench.samples(60, power_w=400.0)
    assert [line.status for line in bench.lines()].count("restored") == 1


def test_a_command_replaced_before_its_answer_is_unanswered(bench: Bench) -> None:
    bench.feed(DESIRED, bench.command(1), bench.command(2, 500.0))
    (line,) = bench.lines()
    assert line.status == "unanswered" and line.status_reason == "replaced by 1/2 before an answer came"


def test_an_answer_that_overtakes_its_command_is_kept_for_it(bench: Bench) -> None:
    command = bench.command(1)
    bench.answer(command)
    bench.feed(DESIRED, command)
    bench.samples(25, power_w=400.0)
    assert [line.status for line in bench.lines()] == ["applied"]


def test_expiry_and_restore_get_lines_without_a_command(bench: Bench) -> None:
    command = bench.command(1)
    bench.feed(DESIRED, command)
    bench.answer(command)
    bench.samples(25, power_w=420.0)
    bench.answer(command, event="expiry", gpu=ack(command, ts_ns=0, status="expired").gpu)
    bench.samples(25, power_w=500.0)
    first, second = bench.lines()
    assert second.status == "expired" and second.status_reason == "expiry"
    assert second.effect_w == pytest.approx(80.0, abs=5.0)
    assert second.loop_ms is None and first.status == "applied"


def test_repeats_change_nothing(bench: Bench) -> None:
    command = bench.command(1)
    answer = ack(command, ts_ns=bench.clock.wall_ns(), ack_seq=1)
    for _ in range(3):
        bench.feed(DESIRED, command)
        bench.feed(APPLIED, answer)
    bench.samples(25, power_w=400.0)
    bench.feed(DESIRED, command)
    bench.samples(25, power_w=400.0)
    assert len(bench.lines()) == 1


def test_a_forged_envelope_does_not_move_the_mark(bench: Bench) -> None:
    bench.feed(DESIRED, msgspec.structs.replace(bench.command(1), epoch=10**9))
    command = bench.command(1)
    bench.feed(DESIRED, command)
    bench.answer(command)
    bench.samples(25, power_w=400.0)
    assert [(line.epoch, line.seq) for line in bench.lines()] == [(1, 1)]


def test_poison_goes_to_the_dead_letters(bench: Bench) -> None:
    for topic in (DESIRED, APPLIED, FEATURES):
        bench.feed(topic, b"\xff", b"[]")
    assert [dead.topic for dead, _, _ in bench.publisher.dead] == [
        t.name for t in (DESIRED, APPLIED, FEATURES) for _ in "12"
    ]


def _killed(bench: Bench, folder: Path) -> Bench:
    return Bench(folder, state=bench.state, clock=bench.clock)


def _revoked(bench: Bench, folder: Path) -> Bench:
    bench.job.revoke(frozenset({0}))
    return _killed(bench, folder)


@pytest.mark.parametrize("end", [_killed, _revoked])
def test_open_lines_survive(bench: Bench, tmp_path: Path, end: Callable[[Bench, Path], Bench]) -> None:
    bench.samples(25, power_w=500.0)
    bench.feed(DESIRED, bench.command(1))
    bench.state.always_due = True
    durable = list(bench.job.tick())
    assert durable == [(DESIRED.name, 0, bench.offset - 1)]
    again = end(bench, tmp_path)
    again.answer(bench.command(1))
    again.samples(25, power_w=420.0)
    (line,) = again.lines()
    assert (line.power_before_w, line.power_after_w) == (500.0, 420.0)


@pytest.mark.parametrize("end", [_killed, _revoked])
def test_a_command_that_overtakes_its_features_knows_the_power_before_after_a_kill(
    bench: Bench, tmp_path: Path, end: Callable[[Bench, Path], Bench]
) -> None:
    """Two topics have no order between them: the command is read first, then the twenty seconds before it."""
    bench.clock.now_s += 25
    bench.state.always_due = True
    bench.feed(DESIRED, bench.command(1))
    list(bench.job.tick())
    bench.clock.now_s -= 25
    bench.samples(25, power_w=500.0)
    again = end(bench, tmp_path)
    again.answer(bench.command(1))
    again.samples(25, power_w=420.0)
    (line,) = again.lines()
    assert (line.power_before_w, line.power_after_w) == (500.0, 420.0)


def test_what_no_snapshot_covers_is_not_acknowledged(bench: Bench) -> None:
    bench.feed(DESIRED, bench.command(1))
    assert list(bench.job.tick()) == []
