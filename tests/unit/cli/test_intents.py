"""Operators' words from clocks that differ, and what `eo cap show` makes of a word under a strange key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents.cli import cap, intents, kafka_read, pause, resume
from agents.cli.main import main
from streams.contract import codec
from streams.contract.intent_key import AHEAD_NS, after, key_of
from streams.contract.layout import Layout
from streams.contract.records import IntentKind, OperatorIntent
from streams.contract.signing import KeyRing
from streams.jobs.actuation_intents import IntentBook, RawIntent, take

S = 10**9
NOW_NS = 1_700_000_000 * S


@dataclass
class Topic:
    """The words' topic; `Reader` reads it, `publish` writes it."""

    messages: list[kafka_read.Message] = field(default_factory=list)

    def publish(self, _: str, intent: OperatorIntent, *, key: str | None = None) -> None:
        at, value = len(self.messages), codec.encode(intent)
        self.messages.append(kafka_read.Message("t", 0, at, at, (key or key_of(intent)).encode(), value, ()))

    def __call__(self, _: str, __: str) -> Topic:
        return self

    def __enter__(self) -> Topic:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def last(self, _: int | None) -> list[kafka_read.Message]:
        return self.messages

    def heard(self, *, compacted: bool, now_ns: int, keyring: KeyRing) -> Sequence[OperatorIntent]:
        """What a worker that starts on it holds for true."""
        last = {message.key: message.offset for message in self.messages}
        book = IntentBook("c1", lambda: keyring)
        for message in self.messages:
            if not compacted or last[message.key] == message.offset:
                assert take(book, RawIntent(message.offset, message.key, message.value, True), now_ns) is None
        return book.all()


@pytest.fixture
def topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topic:
    topic = Topic()
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EO_CLUSTER", "c1")
    assert main(["config", "keys"]) == 0
    monkeypatch.setattr(kafka_read, "Reader", topic)
    monkeypatch.setattr(intents, "publish", topic.publish)
    for verb in (cap, pause, resume):
        monkeypatch.setattr(verb, "resolve_bootstrap", lambda _: "broker:1")
    return topic


def said(kind: IntentKind, *, at_ns: int, cluster: str = "c1", scope: str = "cluster") -> OperatorIntent:
    watts = 300.0 if kind == "cap" else None
    return intents.make(
        kind, scope, layout=Layout.from_env(), reason="", now_ns=lambda: at_ns, cluster=cluster, max_power_w=watts
    )


@pytest.mark.parametrize("slow_s", [0, 5, 59])
def test_a_word_from_a_slow_clock_is_put_after_the_one_that_it_answers(topic: Topic, slow_s: int) -> None:
    import time

    there = said("pause", at_ns=time.time_ns() + slow_s * S)  # seen from here, whose clock is that much behind
    topic.publish("", there)
    assert main(["resume", "--yes"]) == 0
    ring = intents.keyring_of(Layout.from_env())
    for compacted in (False, True):
        (one,) = topic.heard(compacted=compacted, now_ns=time.time_ns() + slow_s * S, keyring=ring)
        assert one.kind == "resume"
    (newest, wrong), *_ = intents.words("", ring, "c1")
    assert (newest.kind, wrong) == ("resume", "") and newest.ts_ns > there.ts_ns


def test_a_pause_of_a_slow_clock_lasts_as_long_as_asked(topic: Topic) -> None:
    known_ns = NOW_NS + 30 * S
    one = intents.make(
        "pause", "cluster", layout=Layout.from_env(), reason="", duration_s=10, now_ns=lambda: NOW_NS, known_ns=known_ns
    )
    assert (one.ts_ns, one.expires_ns) == (known_ns + 1, known_ns + 1 + 10 * S)


def test_what_others_said_or_about_other_matters_moves_nothing(topic: Topic) -> None:
    layout = Layout.from_env()
    topic.publish("", said("pause", at_ns=NOW_NS + 9, cluster="c2"))
    topic.publish("", said("cap", at_ns=NOW_NS + 9, scope="node/n1"))
    topic.publish("", said("pause", at_ns=NOW_NS, scope="node/n1"))
    assert intents.newest_ns("", layout, "resume", "cluster") is None
    assert intents.newest_ns("", layout, "resume", "node/n1") == NOW_NS
    assert intents.newest_ns("", layout, "clear", "node/n1") == NOW_NS + 9


def test_a_word_that_is_too_far_ahead_is_told_and_not_followed(
    topic: Topic, capsys: pytest.CaptureFixture[str]
) -> None:
    one = intents.make(
        "resume", "cluster", layout=Layout.from_env(), reason="", now_ns=lambda: NOW_NS, known_ns=NOW_NS + 600 * S
    )
    assert one.ts_ns == NOW_NS  # a later one would be refused by readers whose clock is right
    assert "the newest word on cluster is 600 s ahead of this clock (60 s are allowed)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("known_ns", "at_ns"),
    [(None, NOW_NS), (0, NOW_NS), (NOW_NS, NOW_NS + 1), (NOW_NS + AHEAD_NS - 1, NOW_NS + AHEAD_NS)],
)
def test_the_time_of_a_word(known_ns: int | None, at_ns: int) -> None:
    assert after(known_ns, NOW_NS) == at_ns
    assert after(NOW_NS + AHEAD_NS, NOW_NS) is None


def test_a_word_under_a_strange_key_does_not_count_and_is_shown_as_such(
    topic: Topic, capsys: pytest.CaptureFixture[str]
) -> None:
    topic.publish("", said("pause", at_ns=NOW_NS), key="c1:node/n1#pause")
    assert intents.newest_ns("", Layout.from_env(), "pause", "cluster") is None
    capsys.readouterr()
    assert main(["cap", "show"]) == 0
    assert "NOT COUNTED: it stands under the key" in capsys.readouterr().out


@pytest.mark.parametrize(("cluster", "old", "told"), [("c1", False, 1), ("c1", True, 0), ("c2", False, 0)])
def test_a_worker_says_that_an_older_word_changes_nothing(
    topic: Topic, caplog: pytest.LogCaptureFixture, cluster: str, old: bool, told: int
) -> None:
    book = IntentBook("c1", lambda: intents.keyring_of(Layout.from_env()))
    for offset, one in enumerate((said("pause", at_ns=NOW_NS), said("resume", at_ns=NOW_NS - S, cluster=cluster))):
        raw = RawIntent(offset, key_of(one).encode(), codec.encode(one), old)
        assert take(book, raw, NOW_NS) is None
    assert [one.kind for one in book.all()] == ["pause"]
    assert caplog.text.count("on cluster changes nothing: a newer word is known") == told
