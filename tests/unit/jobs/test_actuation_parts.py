"""The actuation job's parts by themselves: the book of intents, the pools of latencies, the writer's thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from models.policy.strategies import STRATEGIES
from streams.commands_out import Aborted, CommandsError, Fenced
from streams.contract import codec, histogram
from streams.contract.errors import ContractError
from streams.contract.records import OperatorIntent, PowerDesired
from streams.contract.signing import KeyRing, Signer
from streams.jobs.actuation_intents import IntentBook, RawIntent, take
from streams.jobs.actuation_latency import MIN_SAMPLES, LatencyPools, Pool, RollingCounts
from streams.jobs.actuation_writer import Writers
from tests.unit.jobs import support
from tests.unit.jobs.support import STACK, T0_NS, engine

SIGNER = Signer(SigningKey(bytes(32)), "operator")
RING = KeyRing({"operator": SigningKey(bytes(32)).verify_key})
S = 10**9
POOL = Pool(STACK, "chat")


def word(kind: str, scope: str = "cluster", **more: object) -> OperatorIntent:
    raw = OperatorIntent(
        cluster="c1",
        scope=scope,
        intent_id="i",
        ts_ns=T0_NS,
        actor="ada",
        kind=kind,  # type: ignore[arg-type]  # a literal by the caller's word
        reason="",
    )
    return SIGNER.sign(msgspec.structs.replace(raw, **more))


@pytest.fixture
def book() -> IntentBook:
    return IntentBook("c1", lambda: RING)


def test_a_pause_holds_until_it_ends(book: IntentBook) -> None:
    assert book.accept(word("pause", expires_ns=T0_NS + 10 * S), T0_NS)
    assert book.pause("n1", T0_NS) is not None
    version = book.version
    book.tick(T0_NS + 9 * S)
    assert book.version == version
    book.tick(T0_NS + 10 * S)
    assert book.version == version + 1 and book.pause("n1", T0_NS + 10 * S) is None


def test_a_node_s_pause_is_its_own(book: IntentBook) -> None:
    book.accept(word("pause", "node/n1"), T0_NS)
    assert book.pause("n1", T0_NS) is not None and book.pause("n2", T0_NS) is None
    book.accept(word("resume", "cluster", ts_ns=T0_NS + S), T0_NS + S)
    assert book.pause("n1", T0_NS + S) is not None, "a node's pause is ended by a resume of that node"


def test_the_last_word_holds_and_a_replay_changes_nothing(book: IntentBook) -> None:
    pause, resume = word("pause"), word("resume", ts_ns=T0_NS + S)
    assert book.accept(pause, T0_NS) and book.accept(resume, T0_NS + S)
    assert not book.accept(pause, T0_NS + 2 * S)
    assert book.pause("n1", T0_NS + 2 * S) is None and book.resumed_ns("n9") == T0_NS + S


@pytest.mark.parametrize(
    ("kinds", "paused", "budget"),
    [
        (("pause", "cap"), True, True),
        (("pause", "cap", "clear"), True, False),
        (("cap", "pause", "resume"), False, True),
    ],
)
def test_pauses_and_caps_of_a_node_do_not_end_each_other(
    book: IntentBook, kinds: tuple[str, ...], paused: bool, budget: bool
) -> None:
    for i, kind in enumerate(kinds):
        watts = 4000.0 if kind == "cap" else None
        assert book.accept(word(kind, "node/n1", ts_ns=T0_NS + i * S, max_power_w=watts), T0_NS + i * S)
    again = IntentBook("c1", lambda: RING)
    for known in book.all():  # what a snapshot keeps
        again.accept(known, T0_NS + 9 * S)
    for one in (book, again):
        assert (one.pause("n1", T0_NS + 9 * S) is not None) is paused
        assert (one.budget("n1", T0_NS + 9 * S) is not None) is budget


def test_another_cluster_s_word_is_not_ours(book: IntentBook) -> None:
    assert not book.accept(word("pause", cluster="c2"), T0_NS)
    assert book.refused_total == 0 and book.all() == ()


@pytest.mark.parametrize(
    ("intent", "reason"),
    [
        (word("cap", "gpu/G"), "a cap of None W says nothing"),
        (word("cap", "gpu/G", max_power_w=-5.0), "a cap of -5.0 W says nothing"),
        (word("cap", "cluster", max_power_w=5.0), "not for the cluster"),
        (word("pause", "rack/7"), "scope 'rack/7' is not cluster"),
        (word("pause", ts_ns=T0_NS + 61 * S), "61 s ahead of this clock"),
        (msgspec.structs.replace(word("cap", "gpu/G", max_power_w=300.0), max_power_w=10.0), "does not fit"),
        (msgspec.structs.replace(word("pause"), key_id="other"), "'other' is not in the key ring"),
    ],
)
def test_words_without_sense_or_proof_are_refused(book: IntentBook, intent: OperatorIntent, reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        book.accept(intent, T0_NS)
    assert book.refused_total == 1 and book.all() == ()


def test_a_key_that_was_added_later_counts() -> None:
    rings = [KeyRing({}), RING]
    book = IntentBook("c1", lambda: rings.pop(0) if len(rings) > 1 else rings[0])
    assert book.accept(word("pause"), T0_NS)


@pytest.mark.parametrize("older", [b"cluster#pause", b"cluster"])
@pytest.mark.parametrize("new_first", [False, True])
def test_a_resume_under_the_new_key_ends_a_pause_under_an_older_one(
    book: IntentBook, older: bytes, new_first: bool
) -> None:
    pause, resume = word("pause"), word("resume", ts_ns=T0_NS + S)
    assert take(book, RawIntent(0, older, codec.encode(pause), True), T0_NS) is None
    assert book.pause("n1", T0_NS) is not None, "a pause of before the upgrade still counts"
    ended = RawIntent(1, b"c1:cluster#pause", codec.encode(resume), True)
    kept = [RawIntent(0, older, codec.encode(pause), True), ended]  # compaction sees two keys: both stay in the log
    restarted = IntentBook("c1", lambda: RING)
    for raw in reversed(kept) if new_first else kept:
        assert take(restarted, raw, T0_NS + S) is None
    assert restarted.pause("n1", T0_NS + S) is None


def test_a_clear_under_the_new_key_ends_a_cap_under_an_older_one(book: IntentBook) -> None:
    cap, clear = word("cap", "gpu/G", max_power_w=300.0), word("clear", "gpu/G", ts_ns=T0_NS + S)
    assert take(book, RawIntent(0, b"gpu/G#cap", codec.encode(cap), True), T0_NS) is None
    assert book.cap("G", T0_NS) is not None
    assert take(book, RawIntent(1, b"c1:gpu/G#cap", codec.encode(clear), True), T0_NS + S) is None
    assert book.cap("G", T0_NS + S) is None


def test_raw_words_must_carry_their_scope_as_key(book: IntentBook) -> None:
    intent = word("pause", "node/n1")
    assert take(book, RawIntent(0, b"c1:node/n1#pause", codec.encode(intent), False), T0_NS) is None
    for turn, older in enumerate((b"node/n1#pause", b"node/n1"), 1):
        later = word("resume", "node/n1", ts_ns=T0_NS + turn * S)
        assert take(book, RawIntent(0, older, codec.encode(later), False), T0_NS + turn * S) is None, "older keys count"
    assert book.accepted_total == 3
    for wrong in (b"c2:node/n1#pause", b"c1:node/n1#cap", b"node/n1#cap", b"cluster", b"c1:node/n1"):
        assert "is not its scope" in (take(book, RawIntent(1, wrong, codec.encode(intent), False), T0_NS) or "")
    assert take(book, RawIntent(2, b"cluster", None, False), T0_NS) is None
    assert take(book, RawIntent(3, b"cluster", b"{", False), T0_NS) is not None


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0.5, 5000), st.integers(1, 50)), max_size=60))
@settings(max_examples=50)
def test_rolling_counts_are_the_sum_of_their_window(events: list[tuple[float, float, int]]) -> None:
    rolling = RollingCounts(60.0)
    events.sort()
    for now_s, value, count in events:
        rolling.add(now_s, support.histogram({value: count}))
    if events:
        last = int((events[-1][0] - 60.0) // 5.0)
        inside = [(value, count) for now_s, value, count in events if int(now_s // 5.0) >= last]
        assert rolling.samples == sum(count for _, count in inside)
        assert rolling.samples == sum(rolling.total.values())
        assert rolling.p99() == histogram.quantile(histogram.pool([support.histogram({v: c}) for v, c in inside]), 0.99)


def test_targets_wait_for_enough_hold_out() -> None:
    pools = LatencyPools(STRATEGIES["balanced"], window_s=60)
    one = engine("e", ["g"], tbt_ms=40.0, count=MIN_SAMPLES["tbt"] - 1)
    pools.add(1.0, "holdout", one)
    assert "999 of 1000 hold-out samples of time between tokens" in (pools.obstacle(one, 0) or "")
    pools.add(2.0, "controlled", one)
    assert pools.targets(one).tbt_ms is None, "the controlled group is never its own measure"
    pools.add(3.0, "holdout", one)
    assert pools.obstacle(one, 0) is None
    assert pools.targets(one).tbt_ms == pytest.approx(41.4, rel=0.03)
    other = msgspec.structs.replace(one, stack="another")
    assert "0 of 1000" in (pools.obstacle(other, 0) or "")


def test_aggressive_needs_no_hold_out() -> None:
    pools = LatencyPools(STRATEGIES["aggressive"], window_s=60)
    targets = pools.targets(engine("e", ["g"]))
    assert (targets.tbt_ms, targets.ttft_ms, targets.e2e_ms) == (98.5, 1970.0, None)


def test_a_slower_controlled_group_tightens_targets_then_rolls_back_and_recovers() -> None:
    pools = LatencyPools(STRATEGIES["balanced"], window_s=60)
    slow, usual = engine("e", ["g"], tbt_ms=50.0), engine("h", ["g"], tbt_ms=40.0)
    wide, now_s = None, 0.0
    for _ in range(60):
        now_s += 10
        pools.add(now_s, "controlled", slow)
        pools.add(now_s, "holdout", usual)
        pools.evaluate(now_s, int(now_s * S))
        wide = wide or pools.target_ms(POOL, "tbt")
        if pools.obstacle(slow, int(now_s * S)):
            break
    state = pools.guards[POOL]
    assert state.rolled_back(int(now_s * S)) and "Automatic rollback" in (pools.obstacle(slow, int(now_s * S)) or "")
    now_s = state.default_until_ns / S
    for _ in range(40):
        now_s += 10
        pools.add(now_s, "controlled", usual)
        pools.add(now_s, "holdout", usual)
        assert pools.evaluate(now_s, int(now_s * S)) == []
    assert pools.obstacle(slow, int(now_s * S)) is None
    assert pools.guards[POOL].margin == 1.0 and pools.target_ms(POOL, "tbt") == wide


def test_an_equal_controlled_group_changes_nothing() -> None:
    pools = LatencyPools(STRATEGIES["balanced"], window_s=60)
    for i in range(50):
        pools.add(i * 10.0, "controlled", engine("e", ["g"], tbt_ms=41.5))
        pools.add(i * 10.0, "holdout", engine("h", ["g"], tbt_ms=40.0))
        pools.evaluate(i * 10.0, i)
    assert pools.guards[POOL].margin == 1.0 and pools.guards[POOL].violations_total == 0


class Scripted:
    """A writer whose writes do what a list says."""

    def __init__(self, faults: list[Exception | None]) -> None:
        self.faults, self.written, self.closed, self.calls = faults, 0, 0, 0
        self.gate = threading.Event()
        self.gate.set()

    def open(self, *, epoch_floor: int = 0, timeout_s: float = 30.0) -> int:
        return epoch_floor + 1

    def write(self, drafts: Sequence[PowerDesired]) -> int:
        self.calls += 1
        assert self.gate.wait(10)
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault
        self.written += len(drafts)
        return len(drafts)

    def close(self) -> None:
        self.closed += 1


def draft(node: str) -> PowerDesired:
    from tests.unit.cli.test_explain import command

    return command(node=node)


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, Writers]]:
    writer = Scripted([])
    thread = Writers(lambda _: writer, lambda: T0_NS)
    yield writer, thread
    thread.stop()


def test_tokens_come_back_after_the_write(scripted: tuple[Scripted, Writers]) -> None:
    writer, thread = scripted
    thread.open(0, epoch_floor=4)
    assert thread.drain(10) and thread.epoch(0) == 5 and not thread.ready(1)
    writer.gate.clear()
    thread.submit(0, [draft("a"), draft("b"), draft("a")], [("t", 0, 9)])
    assert thread.done() == []
    writer.gate.set()
    assert thread.drain(10)
    assert thread.done() == [("t", 0, 9)] and thread.done() == [] and writer.written == 2


def test_a_decision_that_waited_too_long_is_made_anew(scripted: tuple[Scripted, Writers]) -> None:
    writer, thread = scripted
    thread.open(0)
    old = msgspec.structs.replace(draft("old"), issued_at_ns=T0_NS - 6 * S)
    thread.submit(0, [old, draft("new")], [("t", 0, 1)])
    assert thread.drain(10)
    assert writer.written == 1 and thread.failed_nodes() == ["old"] and thread.done() == [("t", 0, 1)]


def test_an_aborted_transaction_names_its_nodes(scripted: tuple[Scripted, Writers]) -> None:
    writer, thread = scripted
    writer.faults.append(Aborted("broker away"))
    thread.open(0)
    thread.submit(0, [draft("a")], [("t", 0, 1)])
    assert thread.drain(10)
    assert thread.failed_nodes() == ["a"] and thread.failed_nodes() == []
    assert thread.done() == [("t", 0, 1)], "the next features decide anew, so the offset need not wait"


@pytest.mark.parametrize("fault", [Fenced("taken over"), CommandsError("fatal"), RuntimeError("a bug")])
def test_any_other_failure_ends_the_job(scripted: tuple[Scripted, Writers], fault: Exception) -> None:
    writer, thread = scripted
    writer.faults.append(fault)
    thread.open(0)
    thread.submit(0, [draft("a")], [("t", 0, 1)])
    assert not thread.drain(10)
    with pytest.raises(type(fault)):
        thread.done()
    thread.stop()
    assert writer.closed == 1


def test_a_dropped_partition_finishes_what_it_was_given(scripted: tuple[Scripted, Writers]) -> None:
    writer, thread = scripted
    thread.open(0)
    writer.gate.clear()
    thread.submit(0, [draft("a")], [("t", 0, 1)])
    thread.drop(0)
    assert not thread.ready(0)
    writer.gate.set()
    assert thread.drain(10)
    assert writer.written == 1 and thread.done() == [("t", 0, 1)]
    thread.stop()
    assert writer.closed == 1


def test_what_waits_goes_out_together(scripted: tuple[Scripted, Writers]) -> None:
    writer, thread = scripted
    thread.open(0)
    assert thread.drain(10)
    writer.gate.clear()
    for turn in range(20):
        thread.submit(0, [draft("a"), draft(f"b{turn}")], [("t", 0, turn)])
    writer.gate.set()
    assert thread.drain(10)
    assert [token[2] for token in thread.done()] == list(range(20))
    assert writer.calls <= 3 and writer.written <= 2 * 2 + 21
