"""The deliver job: alerts are on disk before their batch is acknowledged; receivers come and go while it runs."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from streams.contract.topics import ALERT
from streams.errors import StreamsError
from streams.jobs.base import Outcome
from streams.jobs.deliver import DeliverJob
from streams.sinks.address_guard import Allowed
from streams.sinks.delivery_metrics import look
from streams.sinks.http_post import Answer
from streams.sinks.outbox import Outbox
from streams.sinks.receivers import Receiver, Receivers
from streams.sinks.silences import Silence, Silences
from tests.unit.jobs.support import T0_NS, Clock, FakePublisher, context, messages
from tests.unit.sinks.deliver_support import Clock as DeliveryClock
from tests.unit.sinks.deliver_support import FakeReceiver, alert, courier


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


class Rig:
    """The job with its real threads and files, and a network that remembers."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.clock, self.folder = Clock(now_s=time.time() - T0_NS / 1e9), folder
        self.ctx = context(folder, self.clock, **settings)
        self.book = Receivers(self.ctx.layout.deliver / "webhooks.json")
        self.silences = Silences(self.ctx.layout.deliver / "silences.json")
        self.got: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.away: set[str] = set()
        self.lock = threading.Lock()
        self.offset = 0
        self.begin()

    def begin(self) -> None:
        self.job = DeliverJob(self.post)
        self.job.start(self.ctx)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, allowed: Allowed) -> Answer:
        if url in self.away:
            return Answer(None, "ConnectError: away", 1.0)
        with self.lock:
            self.got.append((url, json.loads(body)))
            self.headers.append(dict(headers))
        return Answer(200, "", 1.0)

    def take(self, *records: Any) -> None:
        batch = messages(records, self.offset)
        self.offset += len(batch)
        assert self.job.process(ALERT, 0, batch) is Outcome.ACK

    def fire(self, subject: str, state: str = "firing", **more: Any) -> None:
        now = msgspec.structs.replace(alert(subject, state), ts_ns=time.time_ns(), **more)
        self.take(now)

    def look(self) -> None:
        """A beat of the worker, a second later."""
        self.clock.now_s += 1.1
        assert list(self.job.tick()) == []

    def told(self, url: str = "https://a.example/x") -> list[str]:
        with self.lock:
            return [value["data"]["node"] for to, value in self.got if to == url]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.job.stop()


def add(rig: Rig, name: str, **more: Any) -> str:
    made = rig.book.add(Receiver(name=name, url=f"https://{name}.example/x", **more))
    assert made is not None
    return made


def test_without_receivers_nothing_leaves_and_nothing_fails(rig: Rig) -> None:
    rig.fire("n1")
    rig.look()
    assert rig.got == [] and rig.job._outbox.counts() == {}


def test_an_alert_reaches_every_receiver_signed(rig: Rig) -> None:
    add(rig, "a")
    add(rig, "b")
    rig.fire("n1")
    until(lambda: len(rig.got) == 2)
    assert {url for url, _ in rig.got} == {"https://a.example/x", "https://b.example/x"}
    assert all(h["webhook-signature"].startswith("v1,") for h in rig.headers)
    assert len({h["webhook-id"] for h in rig.headers}) == 2


def test_one_that_is_away_holds_up_no_other_and_its_messages_wait_on_disk(rig: Rig) -> None:
    add(rig, "a")
    add(rig, "b")
    rig.away.add("https://b.example/x")
    for number in range(5):
        rig.fire(f"n{number}")
    until(lambda: len(rig.told()) == 5)
    assert rig.told("https://b.example/x") == []
    box = Outbox(rig.folder / "deliver" / "outbox.sqlite")
    assert len(box.deliveries(limit=9, receiver="b", status="pending")) == 5
    box.close()


def test_the_batch_is_acknowledged_only_when_it_is_on_disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Outbox, "take", full)
    with pytest.raises(OSError, match="No space left"):
        rig.fire("n1")


def test_receivers_come_and_go_while_it_runs(rig: Rig) -> None:
    rig.fire("n1")
    add(rig, "a", created_ns=time.time_ns())
    rig.fire("n2")
    until(lambda: rig.told() == ["n2"])
    rig.book.remove("a")
    rig.look()
    rig.fire("n3")
    rig.look()
    assert rig.told() == ["n2"]


def test_a_damaged_file_leaves_what_was_known_in_force(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    add(rig, "a")
    rig.look()
    good = rig.book.path.read_bytes()
    rig.book.path.write_text("{")
    rig.look()
    assert "is damaged" in caplog.text and "going on with what was known before" in caplog.text
    rig.fire("n1")
    until(lambda: rig.told() == ["n1"])
    rig.book.path.write_bytes(good)
    rig.look()
    rig.fire("n2")
    until(lambda: rig.told() == ["n1", "n2"])


def test_a_silence_holds_back_until_its_end(rig: Rig) -> None:
    add(rig, "a")
    now_ns = rig.clock.wall_ns()
    rig.silences.add(Silence(id="s1", until_ns=now_ns + 600 * 10**9, created_ns=now_ns - 1, by="me", node="n1"))
    rig.look()
    rig.fire("n1")
    rig.fire("n2")
    until(lambda: rig.told() == ["n2"])
    rig.silences.end("s1", rig.clock.wall_ns())
    rig.look()
    until(lambda: rig.told() == ["n2", "n1"])


def test_alertmanager_is_told_only_where_one_is_set(tmp_path: Path) -> None:
    rig = Rig(tmp_path, alertmanager_url="http://am:9093")
    try:
        rig.fire("n1")
        until(lambda: any(value for url, value in rig.got if url == "http://am:9093/api/v2/alerts"))
    finally:
        rig.job.stop()


def test_another_clusters_alerts_and_junk_are_not_sent(rig: Rig) -> None:
    add(rig, "a")
    rig.fire("n1", cluster="other")
    rig.take(b"{", b"")
    rig.fire("n2")
    until(lambda: rig.told() == ["n2"])
    assert isinstance(rig.ctx.publisher, FakePublisher) and len(rig.ctx.publisher.dead) == 2


def test_a_crash_inside_the_sending_is_said_and_tried_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    add(rig, "a")
    calls = []

    def broken(*args: object, **more: object) -> Answer:
        calls.append(1)
        raise RuntimeError("a defect of ours")

    rig.job._post = broken
    rig.fire("n1")
    until(lambda: len(calls) == 1 and "sending to a failed" in caplog.text)
    assert rig.job._outbox.counts() == {"pending": 1}


def test_a_file_that_is_busy_at_the_start_is_opened_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failed = Outbox.__init__, []

    def busy(self: Outbox, path: Path) -> None:
        if threading.current_thread() is not threading.main_thread() and not failed:
            failed.append(path)
            raise sqlite3.OperationalError("database is locked")
        real(self, path)

    monkeypatch.setattr(Outbox, "__init__", busy)
    add(rig, "a")
    rig.look()
    until(lambda: "sending to a failed" in caplog.text)
    rig.fire("n1")  # wakes the sender, as the pause would end
    until(lambda: rig.told() == ["n1"])


def test_no_secret_and_no_address_is_ever_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        secret = add(rig, "a")
        rig.away.add("https://a.example/x")
        rig.fire("n1")
        until(lambda: "webhook a: message 1, try 1" in caplog.text)
        rotated = rig.book.rotate("a")
        rig.look()
    for canary in (secret, rotated, secret[6:20], "example/x"):
        assert canary not in caplog.text
    raw = (rig.folder / "deliver" / "outbox.sqlite").read_bytes()
    assert secret.encode() not in raw and (rig.folder / "deliver" / "outbox.sqlite").stat().st_mode & 0o77 == 0


def metric(rig: Rig, name: str) -> dict[str, float]:
    registry = CollectorRegistry()
    for collector in rig.job.collectors():
        registry.register(collector)
    return {
        sample.labels.get("receiver", ""): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_metrics_tell_what_waits_for_each_receiver_and_what_became_of_the_rest(rig: Rig) -> None:
    add(rig, "a")
    add(rig, "b")
    rig.look()
    assert metric(rig, "eo_deliver_pending") == {"a": 0, "b": 0}
    assert metric(rig, "eo_deliver_oldest_pending_seconds") == {}  # nothing waits: unknown age, not 0
    rig.away.add("https://b.example/x")
    rig.fire("n1")
    rig.fire("n2")
    until(lambda: metric(rig, "eo_deliver_delivered_total") == {"a": 2, "b": 0})
    assert metric(rig, "eo_deliver_pending") == {"a": 0, "b": 2}
    rig.clock.now_s += 700
    oldest = metric(rig, "eo_deliver_oldest_pending_seconds")
    assert set(oldest) == {"b"} and 690 <= oldest["b"] <= 720
    assert metric(rig, "eo_deliver_alertmanager_failures") == {}


def test_counts_go_on_through_restart_and_pruning(tmp_path: Path) -> None:
    clock = DeliveryClock()
    away = FakeReceiver(clock, away=True)
    one = courier(tmp_path, away)
    one.outbox.take([alert("n1"), alert("n2")], [one.receiver], [], now_s=clock.now_s)
    for _ in range(3):
        due = one.step()
        clock.now_s = max(clock.now_s, due or clock.now_s)
    away.away, again = False, courier(tmp_path, away)
    for _ in range(40):
        clock.now_s = max(clock.now_s, again.step() or clock.now_s)
    again.outbox.prune(clock.now_s + 40 * 86400)
    assert again.outbox.deliveries(limit=9) == []
    (seen,) = look(tmp_path / "o.sqlite", ["ops"], clock.now_s)
    assert (seen.pending, seen.oldest_s, seen.delivered, seen.dead) == (0, None, 2, 0)
    assert seen.retried == len(away.tries) - 2 >= 1


def test_a_message_that_is_given_up_is_counted_as_dead_and_a_replay_waits_again(tmp_path: Path) -> None:
    clock = DeliveryClock()
    gone = FakeReceiver(clock, status=410)
    one = courier(tmp_path, gone)
    one.outbox.take([alert("n1")], [one.receiver], [], now_s=clock.now_s)
    one.step()
    path = tmp_path / "o.sqlite"
    (seen,) = look(path, ["ops"], clock.now_s)
    assert (seen.pending, seen.delivered, seen.retried, seen.dead) == (0, 0, 0, 1)
    assert one.outbox.replay([1], now_s=clock.now_s) == 1
    (seen,) = look(path, ["ops"], clock.now_s + 5)
    assert (seen.pending, seen.oldest_s, seen.dead) == (1, 5.0, 1)
    assert look(tmp_path / "o.sqlite" / "nowhere", ["ops"], 0.0) == []


def test_what_waits_for_a_removed_receiver_is_never_told_to_the_next_of_its_name(rig: Rig) -> None:
    add(rig, "a")
    rig.look()
    rig.away.add("https://a.example/x")
    rig.fire("n1")
    until(lambda: metric(rig, "eo_deliver_pending") == {"a": 1})
    rig.book.remove("a")
    rig.look()
    box = Outbox(rig.folder / "deliver" / "outbox.sqlite")
    assert box.counts() == {"dead": 1} and box.attempts(1)[-1].detail == "the receiver was removed"
    rig.away.clear()
    add(rig, "a", created_ns=time.time_ns())
    rig.look()
    rig.fire("n2")
    until(lambda: rig.told() == ["n2"])
    box.close()


def test_a_receiver_that_is_replaced_between_two_looks_is_another_one(rig: Rig) -> None:
    add(rig, "a")
    rig.look()
    rig.away.add("https://a.example/x")
    rig.fire("n1")
    until(lambda: metric(rig, "eo_deliver_pending") == {"a": 1})
    rig.book.remove("a")
    add(rig, "a", created_ns=time.time_ns() + 3600 * 10**9)
    rig.look()
    assert rig.job._outbox.counts() == {"dead": 1}


def test_a_file_that_is_away_for_a_moment_removes_nobody(rig: Rig) -> None:
    add(rig, "a")
    rig.look()
    rig.away.add("https://a.example/x")
    rig.fire("n1")
    until(lambda: metric(rig, "eo_deliver_pending") == {"a": 1})
    kept = rig.book.path.read_bytes()
    rig.book.path.unlink()
    rig.look()
    assert rig.job._outbox.counts() == {"pending": 1}
    rig.away.clear()
    rig.book.path.write_bytes(kept)
    rig.look()
    until(lambda: rig.told() == ["n1"])


def test_a_silence_covers_what_waits_already_and_its_end_too(rig: Rig) -> None:
    add(rig, "a")
    rig.look()
    rig.away.add("https://a.example/x")
    rig.fire("n1")
    rig.fire("n2")
    rig.fire("n1", "resolved")
    until(lambda: metric(rig, "eo_deliver_pending") == {"a": 3})
    now = rig.ctx.wall_ns()
    rig.silences.add(Silence(id="", until_ns=now + 600 * 10**9, created_ns=now, by="me", node="n1"))
    rig.look()
    assert rig.job._outbox.counts() == {"pending": 1, "muted": 2}  # n2's stays
    rig.clock.now_s += 700
    rig.look()
    assert rig.job._outbox.counts() == {"pending": 1, "muted": 2}  # n1 is over: nobody is told of it


def test_a_muted_message_is_told_in_order_when_its_silence_ends(tmp_path: Path) -> None:
    clock = DeliveryClock()
    one = courier(tmp_path, FakeReceiver(clock))
    one.outbox.take([alert("n1")], [one.receiver], [], now_s=clock.now_s)
    ns = int(clock.now_s * 1e9)
    quiet = [Silence(id="s", until_ns=ns + 60 * 10**9, created_ns=ns, by="me", rule="high_*")]
    assert one.outbox.mute(quiet, now_s=clock.now_s) == 1
    assert one.step() is None  # nothing waits
    clock.now_s += 61
    assert one.outbox.mute(quiet, now_s=clock.now_s) == 0
    assert one.outbox.unmute(quiet, now_s=clock.now_s) == 1
    one.outbox.take([alert("n1", "resolved", at_s=clock.now_s)], [one.receiver], quiet, now_s=clock.now_s)
    one.step()
    one.step()
    assert [delivery.state for delivery in reversed(one.outbox.deliveries(limit=9, status="delivered"))] == [
        "firing",
        "resolved",
    ]


def test_a_damaged_outbox_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "o.sqlite").write_bytes(b"no database at all, but long enough to be looked at as if it were one" * 40)
    with pytest.raises(StreamsError, match=r"is damaged .*; put it back from a copy, or move it away"):
        Outbox(tmp_path / "o.sqlite")
