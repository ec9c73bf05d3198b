"""Webhooks: signed as the standard says, nothing lost, in order for each alert, over hours and restarts."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from streams.errors import StreamsError
from streams.sinks import shapes, webhook
from streams.sinks.outbox import Outbox, bundled, webhook_id
from streams.sinks.receivers import Receiver, Receivers, key_of, new_secret
from streams.sinks.silences import Silence
from tests.unit.sinks.deliver_support import SECRET, T0_S, Clock, FakeReceiver, alert, courier, receiver, run

HOUR_S = 3600.0


# --- signature ---


def _now_s() -> int:
    return int(datetime.now(UTC).timestamp())  # the library compares with the real clock


def test_the_specifications_own_library_verifies_us() -> None:
    body = shapes.body("standard", [alert()], "ops")
    sent = webhook.headers("msg_1", _now_s(), body, [key_of(SECRET)])
    value = Webhook(SECRET).verify(body.decode(), sent)
    assert value["type"] == "energy.alert.firing" and value["data"]["node"] == "n1"


@pytest.mark.parametrize("spoil", ["body", "id", "time", "old", "key"])
def test_what_was_altered_is_not_verified(spoil: str) -> None:
    body, now_s = shapes.body("standard", [alert()], "ops"), _now_s()
    sent = webhook.headers("msg_1", now_s - (600 if spoil == "old" else 0), body, [key_of(SECRET)])
    if spoil == "id":
        sent["webhook-id"] = "msg_2"
    if spoil == "time":
        sent["webhook-timestamp"] = str(now_s - 1)
    text = body.decode().replace("4,000", "4,001") if spoil == "body" else body.decode()
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret() if spoil == "key" else SECRET).verify(text, sent)


def test_two_secrets_are_live_during_a_rotation(tmp_path: Path) -> None:
    book = Receivers(tmp_path / "webhooks.json")
    first = book.add(receiver())
    second = book.rotate("ops")
    assert first is not None and first != second
    body = shapes.body("standard", [alert()], "ops")
    sent = webhook.headers("msg_1", _now_s(), body, book.keys(book.get("ops")))
    assert len(sent["webhook-signature"].split()) == 2
    for secret in (first, second):
        Webhook(secret).verify(body.decode(), sent)
    with pytest.raises(StreamsError, match="has two live secrets already"):
        book.rotate("ops")
    book.finish("ops")
    sent = webhook.headers("msg_1", _now_s(), body, book.keys(book.get("ops")))
    Webhook(second).verify(body.decode(), sent)
    with pytest.raises(WebhookVerificationError):
        Webhook(first).verify(body.decode(), sent)
    assert len(list((tmp_path / "secrets").iterdir())) == 1


def test_secrets_are_files_of_this_user_alone_and_show_nowhere_else(tmp_path: Path) -> None:
    book = Receivers(tmp_path / "d" / "webhooks.json")
    secret = book.add(receiver())
    assert secret is not None
    [file] = (tmp_path / "d" / "secrets").iterdir()
    assert file.read_text() == secret and file.stat().st_mode & 0o777 == 0o600
    assert book.path.stat().st_mode & 0o777 == 0o600 and secret not in book.path.read_text()
    assert secret not in repr(book.get("ops")) and "/x" not in book.get("ops").shown
    book.remove("ops")
    assert list((tmp_path / "d" / "secrets").iterdir()) == [] and book.all() == []


def test_without_its_secret_a_message_is_never_sent_unsigned(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock)
    messenger = courier(tmp_path, one)
    book = Receivers(tmp_path / "webhooks.json")
    book.add(receiver())
    next((tmp_path / "secrets").iterdir()).unlink()
    messenger.keys = lambda: book.keys(book.get("ops"))
    messenger.outbox.take([alert()], [receiver()], [], now_s=clock.now_s)
    messenger.step()
    assert one.tries == []
    [waiting] = messenger.outbox.deliveries(limit=9)
    assert "the secret of ops cannot be read" in messenger.outbox.attempts(waiting.id)[0].detail


@pytest.mark.parametrize("secret", ["", "abc", "whsec_", "whsec_kurz", "whsec_" + "!" * 40, "WHSEC_" + "A" * 44])
def test_a_bad_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(StreamsError) as caught:
        key_of(secret)
    assert len(secret) < 8 or secret not in str(caught.value)


# --- an hour away ---


def news(count: int, subjects: int) -> list[tuple[str, str, int]]:
    """(subject, state, number) in order: each subject fires and is resolved again and again."""
    return [(f"n{i % subjects}", ("firing", "resolved")[i // subjects % 2], i // subjects // 2) for i in range(count)]


def test_an_hour_away_loses_nothing_and_keeps_the_order_also_over_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock, away=True)
    chance = random.Random(7)
    messenger = courier(tmp_path, one)
    sent = news(240, 8)
    for i, (subject, state, number) in enumerate(sent):
        clock.now_s = max(clock.now_s, T0_S + i * HOUR_S / len(sent))
        messenger.outbox.take(
            [alert(subject, state, number=number, at_s=clock.now_s)], [receiver()], [], now_s=clock.now_s
        )
        run(messenger, clock, clock.now_s)
        if i in {60, 150}:  # the process is gone and another one begins: only the file is left
            messenger = courier(tmp_path, one, chance=chance.random())
    assert one.got == [] and len(one.tries) > 5
    assert len(one.tries) < 40, "a receiver that is away is asked by one message at a time, ever more seldom"
    one.away = False
    run(messenger, clock, T0_S + 3 * HOUR_S)
    told = [(v["data"]["node"], v["data"]["state"], v["data"]["alert_id"]) for _, v in one.got]  # type: ignore[index]
    assert len(told) == len(sent) == len({message_id for message_id, _ in one.got}), "0 lost, 0 twice"
    for subject in {name for name, _, _ in sent}:
        mine = [(state, number) for name, state, number in told if name == subject]
        assert mine == [(state, f"{name}-{number}") for name, state, number in sent if name == subject]
    assert messenger.outbox.counts() == {"delivered": 240}


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_receiver_does_each_alert_arrives_once_and_in_order(tmp_path: Path, seed: int) -> None:
    clock, chance = Clock(), random.Random(seed)
    one = FakeReceiver(clock)
    messenger = courier(tmp_path, one)
    sent = news(60, 3)
    for i, (subject, state, number) in enumerate(sent):
        now = alert(subject, state, number=number, at_s=clock.now_s)
        messenger.outbox.take([now], [receiver()], [], now_s=clock.now_s)
        one.away = chance.random() < 0.2
        one.status = chance.choice([200, 200, 200, 400, 404, 429, 500, 503])
        one.retry_after_s = chance.choice([None, None, 30.0])
        run(messenger, clock, T0_S + i * 60.0)
        if chance.random() < 0.2:
            messenger = courier(tmp_path, one, chance=chance.random())
    one.away, one.status = False, 200
    run(messenger, clock, clock.now_s + 4 * HOUR_S)
    told = [(v["data"]["node"], v["data"]["state"], v["data"]["alert_id"]) for _, v in one.got]  # type: ignore[index]
    for subject in ("n0", "n1", "n2"):
        wanted = [(state, f"{name}-{number}") for name, state, number in sent if name == subject]
        assert [(state, name) for who, state, name in told if who == subject] == wanted
    assert messenger.outbox.counts() == {"delivered": 60}


def test_the_id_stays_over_tries_and_restarts_while_time_and_signature_are_new(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock, status=500)
    messenger = courier(tmp_path, one)
    messenger.outbox.take([alert()], [receiver()], [], now_s=clock.now_s)
    run(messenger, clock, T0_S + 60)
    run(courier(tmp_path, one), clock, T0_S + 600)
    assert len(one.headers) > 4
    assert {h["webhook-id"] for h in one.headers} == {webhook_id([alert()], "ops")}
    assert len({h["webhook-timestamp"] for h in one.headers}) == len(one.headers)
    ended = alert(state="resolved")
    assert len({webhook_id([alert()], "ops"), webhook_id([alert()], "other"), webhook_id([ended], "ops")}) == 3


def test_pauses_double_up_to_an_hour_with_jitter() -> None:
    assert [webhook.pause_s(n, 1.0) for n in (1, 2, 3, 11, 400)] == [5.0, 10.0, 20.0, 3600.0, 3600.0]
    assert webhook.pause_s(1, 0.0) == 2.5 and webhook.pause_s(400, 0.0) == 1800.0


def test_after_the_last_try_it_is_dead_and_can_be_sent_again(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock, away=True)
    messenger = courier(tmp_path, one)
    messenger.outbox.take([alert(), alert(state="resolved", at_s=T0_S + 1)], [receiver()], [], now_s=clock.now_s)
    run(messenger, clock, T0_S + 30 * HOUR_S)
    dead = messenger.outbox.deliveries(limit=9, status="dead")
    assert len(dead) == 2 and all(one.ended_s is not None for one in dead)
    firing = messenger.outbox.attempts(dead[1].id)
    assert 20 < len(firing) < 60 and firing[-1].at_s - T0_S > 20 * HOUR_S
    assert firing[0].answer is None and "nobody there" in firing[0].detail
    one.away = False
    assert messenger.outbox.replay([d.id for d in dead], now_s=clock.now_s) == 2
    run(messenger, clock, clock.now_s + 2 * HOUR_S)
    assert [v["type"] for _, v in one.got] == ["energy.alert.firing", "energy.alert.resolved"]


def test_one_alert_that_a_receiver_refuses_holds_up_no_other(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock, sick=frozenset({"n0"}))
    messenger = courier(tmp_path, one)
    for subject, state, number in news(40, 4):
        messenger.outbox.take([alert(subject, state, number=number)], [receiver()], [], now_s=clock.now_s)
    run(messenger, clock, T0_S + 5)
    assert len(one.got) == 30
    waiting = messenger.outbox.deliveries(limit=99, status="pending")
    assert {d.alerts[0].node for d in waiting} == {"n0"} and len(waiting) == 10
    assert sum(d.attempts > 0 for d in waiting) == 1, "the later ones of n0 wait behind its first"


def test_a_receiver_that_says_when_is_asked_then(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock, status=429, retry_after_s=120.0)
    messenger = courier(tmp_path, one)
    messenger.outbox.take([alert()], [receiver()], [], now_s=clock.now_s)
    run(messenger, clock, T0_S + 119)
    assert one.tries == [T0_S]
    one.status = 200
    run(messenger, clock, T0_S + 130)
    assert len(one.got) == 1


def test_gone_means_gone(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock, status=410)
    messenger = courier(tmp_path, one)
    messenger.outbox.take([alert()], [receiver()], [], now_s=clock.now_s)
    run(messenger, clock, T0_S + HOUR_S)
    assert len(one.tries) == 1 and messenger.outbox.counts() == {"dead": 1}


# --- the outbox ---


def test_the_same_news_again_is_no_news(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "o.sqlite")
    first, ended = alert(), alert(state="resolved", at_s=T0_S + 9)
    assert box.take([first, ended], [receiver()], [], now_s=T0_S + 10) == 2
    assert box.take([first, ended, first], [receiver()], [], now_s=T0_S + 20) == 0, "read again after a crash"
    assert [a.state for a in box.alerts(T0_S + 20)] == ["resolved"]


def test_yesterdays_alerts_and_those_before_the_receiver_are_not_told(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "o.sqlite")
    assert box.take([alert()], [receiver()], [], now_s=T0_S + 2 * 86400) == 0
    late = receiver(created_ns=int((T0_S + 5) * 1e9))
    assert box.take([alert("n2")], [late], [], now_s=T0_S + 6) == 0
    assert box.take([alert("n3", at_s=T0_S + 6)], [late], [], now_s=T0_S + 7) == 1


def test_a_receiver_gets_what_it_asked_for(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "o.sqlite")
    picky = receiver(rules=("high_energy",), least_severity="critical")
    assert box.take([alert()], [picky], [], now_s=T0_S) == 0
    assert box.take([alert("n2", severity="critical")], [picky], [], now_s=T0_S) == 1
    assert box.take([alert("n3", severity="critical", rule="lag")], [picky], [], now_s=T0_S) == 0


def silence(until_s: float, **more: str) -> Silence:
    return Silence(id="s", until_ns=int(until_s * 1e9), created_ns=int(T0_S * 1e9) - 1, by="me", **more)


def test_a_silence_mutes_the_telling_and_its_end_is_heard(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock)
    messenger = courier(tmp_path, one)
    box, quiet = messenger.outbox, [silence(T0_S + 100, node="n*")]
    box.take([alert("n1"), alert("n2"), alert("m1")], [receiver()], quiet, now_s=T0_S)
    run(messenger, clock, T0_S + 1)
    assert [v["data"]["node"] for _, v in one.got] == ["m1"]  # type: ignore[index]
    box.take([alert("n2", "resolved", at_s=T0_S + 50)], [receiver()], quiet, now_s=T0_S + 50)
    assert box.unmute(quiet, now_s=T0_S + 99) == 0
    assert box.unmute(quiet, now_s=T0_S + 101) == 1
    clock.now_s = T0_S + 101
    run(messenger, clock, T0_S + 102)
    assert [v["data"]["node"] for _, v in one.got] == ["m1", "n1"], "n2 is over: nobody need know"  # type: ignore[index]
    box.take([alert("n1", "resolved", at_s=T0_S + 200)], [receiver()], quiet, now_s=T0_S + 200)
    run(messenger, clock, T0_S + 201)
    assert [v["type"] for _, v in one.got][-1] == "energy.alert.resolved"


def test_who_was_told_before_the_silence_is_told_the_end(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock)
    messenger = courier(tmp_path, one)
    messenger.outbox.take([alert()], [receiver()], [], now_s=T0_S)
    run(messenger, clock, T0_S + 1)
    quiet = [silence(T0_S + 500, rule="high_energy")]
    messenger.outbox.take([alert(state="resolved", at_s=T0_S + 9)], [receiver()], quiet, now_s=T0_S + 9)
    run(messenger, clock, T0_S + 10)
    assert [v["type"] for _, v in one.got] == ["energy.alert.firing", "energy.alert.resolved"]


def test_what_is_over_and_old_is_forgotten_and_what_waits_is_not(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock)
    messenger = courier(tmp_path, one)
    messenger.outbox.take([alert("n1")], [receiver()], [], now_s=T0_S)
    run(messenger, clock, T0_S + 1)
    messenger.outbox.take([alert("n2")], [receiver()], [], now_s=T0_S)
    messenger.outbox.prune(T0_S + 8 * 86400)
    [left] = messenger.outbox.deliveries(limit=9)
    assert left.alerts[0].node == "n2" and messenger.outbox.attempts(1) == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from streams.sinks.outbox import Outbox
    from tests.unit.sinks.deliver_support import alert, receiver
    box = Outbox(Path(sys.argv[1]) / "o.sqlite")
    for number in range(50):
        box.take([alert(f"n{number}")], [receiver()], [], now_s=1_700_000_000.0)
        print(number, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_nothing_that_was_taken(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, capture_output=True, timeout=60)
    assert ended.returncode == -9 and len(ended.stdout.split()) == 50, ended.stderr.decode()
    clock = Clock()
    one = FakeReceiver(clock)
    run(courier(tmp_path, one), clock, T0_S + 5)
    assert [v["data"]["node"] for _, v in one.got] == [f"n{i}" for i in range(50)]  # type: ignore[index]


# --- grouping ---


def test_alerts_of_one_group_are_told_together_where_the_shape_can(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "o.sqlite")
    many = [alert(f"n{i}") for i in range(60)]
    assert box.take(many, [receiver(shape="slack")], [], now_s=T0_S) == 2
    first, second = reversed(box.deliveries(limit=9))
    assert (len(first.alerts), len(second.alerts)) == (50, 10)
    assert Outbox(tmp_path / "p.sqlite").take(many, [receiver()], [], now_s=T0_S) == 60, "our own shape: one each"
    value = json.loads(shapes.body("slack", first.alerts, "ops"))
    assert value["text"] == "[WARNING] high_energy: 50 together, 10 shown" and len(value["attachments"]) == 10
    told = json.loads(shapes.body("alertmanager", first.alerts, "ops"))
    assert len(told["alerts"]) == 50 and "node" not in told["commonLabels"]
    assert told["groupLabels"] == {"alertname": "high_energy", "cluster": "c1", "group": "energy"}


def test_together_never_means_out_of_order(tmp_path: Path) -> None:
    """Each subject's words in the order in which they came, whatever shares a message with them."""
    chance = random.Random(3)
    for trial in range(20):
        states: dict[str, int] = {}
        sent: list[tuple[str, str, int]] = []
        for _ in range(60):
            subject = f"n{chance.randrange(5)}"
            step = states[subject] = states.get(subject, -1) + 1
            sent.append((subject, ("firing", "resolved")[step % 2], step // 2))
        bundles = bundled([alert(subject, state, number=number) for subject, state, number in sent])
        flat = [(a.labels["subject"], a.state, int(a.alert_id.rsplit("-", 1)[1])) for bundle in bundles for a in bundle]
        assert sorted(flat) == sorted(sent), trial
        for subject in states:
            assert [one for one in flat if one[0] == subject] == [one for one in sent if one[0] == subject]
        assert all(len({a.labels["subject"] for a in bundle}) == len(bundle) for bundle in bundles)
        assert all(len({(a.rule, a.state) for a in bundle}) == 1 for bundle in bundles)
        assert len(bundles) < len(sent)


def test_a_bundle_that_waits_holds_up_what_it_is_about_and_nothing_else(tmp_path: Path) -> None:
    clock = Clock()
    one = FakeReceiver(clock)
    messenger = courier(tmp_path, one, shape="slack")
    box, slack = messenger.outbox, receiver(shape="slack")
    box.take([alert("n1"), alert("n2")], [slack], [], now_s=T0_S)
    box.take([alert("n2", "resolved", at_s=T0_S + 1)], [slack], [], now_s=T0_S)
    box.take([alert("n3")], [slack], [], now_s=T0_S)
    first = box.next("ops", T0_S)
    assert first is not None and len(first.alerts) == 2
    box.record(first, webhook.Attempt(T0_S, 400, "", 1.0), status="pending", next_s=T0_S + 60, ended_s=None)
    due = box.next("ops", T0_S)
    assert due is not None and due.alerts[0].node == "n3", "the end of n2 waits behind its beginning"
    box.record(due, webhook.Attempt(T0_S, 200, "", 1.0), status="delivered", next_s=T0_S, ended_s=T0_S)
    assert box.next("ops", T0_S) is None and box.next("ops", T0_S + 61) == box.deliveries(limit=9)[-1]


# --- shapes ---


def test_slack_gets_text_without_markup_of_ours() -> None:
    value = json.loads(shapes.body("slack", [alert("<!channel> & <http://x|y>")], "ops"))
    assert value["text"].startswith("[WARNING] high_energy: &lt;!channel&gt; &amp; ")
    assert "<" not in json.dumps(value)
    titles = [field["title"] for field in value["attachments"][0]["fields"]]
    assert titles == ["cluster", "node", "look", "done", "undo", "runbook", "data"]
    ended = json.loads(shapes.body("slack", [alert(state="resolved")], "ops"))
    assert ended["text"].startswith("[RESOLVED] high_energy")


def test_the_alertmanager_shape_has_its_version_4_fields() -> None:
    value = json.loads(shapes.body("alertmanager", [alert()], "ops"))
    assert (value["version"], value["status"], value["receiver"], value["truncatedAlerts"]) == ("4", "firing", "ops", 0)
    [one] = value["alerts"]
    assert one["labels"] == value["commonLabels"] and one["labels"]["alertname"] == "high_energy"
    assert one["startsAt"] == "2023-11-14T22:13:20.000Z" and one["endsAt"] == "0001-01-01T00:00:00Z"
    ended = json.loads(shapes.body("alertmanager", [alert(state="resolved", at_s=T0_S + 60)], "ops"))
    assert ended["alerts"][0]["endsAt"] == "2023-11-14T22:14:20.000Z"
    assert ended["alerts"][0]["labels"] == one["labels"], "a resolution must meet its firing"


def test_our_own_shape_has_everything() -> None:
    value = json.loads(shapes.body("standard", [alert()], "ops"))
    assert value["data"]["evidence"] == {"power_w": 4000.0, "limit_w": None}, "unknown is null"
    assert value["data"]["quality"] == "simulated" and value["timestamp"] == "2023-11-14T22:13:20.000Z"


# --- receivers ---


def test_receivers_are_refused_with_the_next_step(tmp_path: Path) -> None:
    book = Receivers(tmp_path / "webhooks.json")
    book.add(receiver(), secret=SECRET)
    assert book.keys(book.get("ops")) == [key_of(SECRET)]
    with pytest.raises(StreamsError, match=r"there is a receiver 'ops' already; choose another --name or remove it"):
        book.add(receiver())
    with pytest.raises(StreamsError, match=r"there is no receiver 'opps'; there are: ops"):
        book.get("opps")
    with pytest.raises(StreamsError, match=r"is no name; use a-z, 0-9, - and _"):
        book.add(Receiver(name="../x", url="https://x/"))
    book.path.write_text("{")
    with pytest.raises(StreamsError, match="is damaged"):
        book.all()


def test_the_documented_test_vector_is_true() -> None:
    page = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text()
    row = dict(re.findall(r"^\| `?([a-z-]+)`? \| `(.+)` \|$", page, re.MULTILINE))
    body = row["body"].encode()
    made = webhook.headers(row["webhook-id"], int(row["webhook-timestamp"]), body, [key_of(row["secret"])])
    assert made["webhook-signature"] == row["webhook-signature"]
    theirs = Webhook(row["secret"]).sign(
        row["webhook-id"], datetime.fromtimestamp(int(row["webhook-timestamp"]), UTC), row["body"]
    )
    assert theirs == row["webhook-signature"]


def test_the_documented_snippet_verifies_and_refuses() -> None:
    page = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    scope: dict[str, object] = {}
    exec(found[1], scope)
    verify = scope["verify"]
    body = shapes.body("standard", [alert()], "ops")
    sent = webhook.headers("msg_1", _now_s(), body, [key_of(new_secret()), key_of(SECRET)])
    assert verify(body, sent, SECRET) is True  # type: ignore[operator]
    assert verify(body + b" ", sent, SECRET) is False  # type: ignore[operator]
    assert verify(body, sent, new_secret()) is False  # type: ignore[operator]
    old = webhook.headers("msg_1", _now_s() - 600, body, [key_of(SECRET)])
    assert verify(body, old, SECRET) is False  # type: ignore[operator]
