"""`eo topics` and `eo dlq` against a real broker: plans, tails, dead letters replayed under their own key."""

from __future__ import annotations

import base64
import json
import time

import pytest
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from agents.cli.brokers import processes
from agents.cli.brokers.ready import client_config
from agents.cli.kafka_read import Reader
from agents.cli.main import main
from agents.cli.topic_admin import plan
from streams.contract.codec import encode
from streams.contract.dlq import DeadLetter
from streams.contract.kafka import partition_of, producer_config
from streams.contract.records import NodeTelemetry
from streams.contract.topics import ALERT, DLQ, TELEMETRY
from tests.conftest import PARTITIONS

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _address(topics: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", topics)


def _sample(node: str, seq: int) -> bytes:
    return encode(
        NodeTelemetry(cluster="verbs", node=node, boot_id="b", seq=seq, ts_ns=1, source=("nvml",), quality="measured")
    )


def _produce(bootstrap: str, topic: str, pairs: list[tuple[str, bytes]], letter: DeadLetter | None = None) -> None:
    producer = Producer(producer_config(bootstrap, "verbs"))
    for key, value in pairs:
        producer.produce(topic, key=key, value=value, headers=letter.to_headers() if letter else None)
    assert producer.flush(30) == 0


def test_a_changed_setting_is_planned_applied_and_gone(topics: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ConfigResource(
        ResourceType.TOPIC,
        ALERT.name,
        incremental_configs=[ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)],
    )
    admin = AdminClient(client_config(topics))
    for future in admin.incremental_alter_configs([wrong]).values():
        future.result(30)
    words = ["--partitions", str(PARTITIONS)]
    # A change is answered when the controller has it; the broker that is asked next follows a moment later.
    assert processes.wait_until(lambda: _actions(topics) == {"same", "alter"}, 20)
    assert main(["topics", "plan", *words]) == 0
    assert "cleanup.policy compact -> delete" in capsys.readouterr().out
    assert main(["topics", "apply", *words]) == 3
    assert "pass --yes to do it, or --dry-run to see it." in capsys.readouterr().err
    assert main(["topics", "apply", *words, "--dry-run"]) == 0
    assert [change.action for change in plan(topics, partitions=PARTITIONS) if change.topic == ALERT.name] == ["alter"]
    assert main(["topics", "apply", *words, "--yes"]) == 0
    assert processes.wait_until(lambda: _actions(topics) == {"same"}, 20)


def _actions(bootstrap: str) -> set[str]:
    return {change.action for change in plan(bootstrap, partitions=PARTITIONS)}


def test_another_partition_count_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "plan", "--json"]) == 3
    told = {change["topic"]: change for change in json.loads(capsys.readouterr().out)}
    assert told[TELEMETRY.name]["action"] == "blocked"
    assert main(["topics", "apply", "--yes"]) == 3
    assert "LEFT AS IT IS" in capsys.readouterr().out


def test_tail_shows_the_newest_of_all_partitions(topics: str, capsys: pytest.CaptureFixture[str]) -> None:
    _produce(topics, TELEMETRY.name, [(f"tail-{seq % 5}", _sample(f"tail-{seq % 5}", seq)) for seq in range(40)])
    assert main(["topics", "tail", "telemetry.node", "-n", "7", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == 7
    assert all(one["record"]["cluster"] == "verbs" and one["key"] == one["record"]["node"] for one in records)
    assert [one["timestamp_ms"] for one in records] == sorted(one["timestamp_ms"] for one in records)
    assert main(["topics", "tail", "telemetry.node", "-n", "1"]) == 0
    assert "NodeTelemetry\n  cluster=verbs" in capsys.readouterr().out


def test_tail_follows(topics: str) -> None:
    with Reader(topics, TELEMETRY.name) as reader:
        reader.last(0)
        _produce(topics, TELEMETRY.name, [("follow", _sample("follow", 1))])
        stream = reader.follow()
        deadline = time.monotonic() + 30
        while (message := next(stream)).key != b"follow":
            assert time.monotonic() < deadline
        assert message.value == _sample("follow", 1)


def test_tail_of_an_empty_topic(topics: str, capsys: pytest.CaptureFixture[str]) -> None:
    _produce(topics, ALERT.name, [("of another test", b"{}")])  # the broker is shared
    _empty(topics, ALERT.name)
    assert main(["topics", "tail", "alert"]) == 0
    told = capsys.readouterr()
    assert told.out == "" and told.err == f"{ALERT.name} is empty.\n"


def test_dead_letters_are_listed_and_replayed_under_their_own_key(
    topics: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = DeadLetter(TELEMETRY.name, 1, 5, "the job was too old", "verbs-test", time.time_ns())
    _produce(topics, DLQ.name, [("replay-1", _sample("replay-1", 9)), ("replay-2", b"{not json")], good)
    only = ["--component", "verbs-test"]
    assert main(["dlq", "list", "--json", *only]) == 0
    listed = {one["key"]: one for one in json.loads(capsys.readouterr().out)}
    assert base64.b64decode(listed["replay-2"]["value_base64"]) == b"{not json"
    assert (listed["replay-1"]["topic"], listed["replay-1"]["offset"]) == (TELEMETRY.name, 5)

    assert main(["dlq", "replay", "--all", *only]) == 3, "without a terminal it asks for --yes"
    assert main(["dlq", "replay", "--all", "--dry-run", "--json", *only]) == 3
    dry = json.loads(capsys.readouterr().out)
    assert dry["sent"] == [listed["replay-1"]["place"]]
    assert "DecodeError" in dry["left"][listed["replay-2"]["place"]]
    assert _replayed(topics) == []

    assert main(["dlq", "replay", listed["replay-1"]["place"], "--yes", *only]) == 0
    assert "sent to energy.telemetry.node.v1" in capsys.readouterr().out
    ((partition, value, headers),) = _replayed(topics)
    assert value == _sample("replay-1", 9)
    assert partition == partition_of(b"replay-1", PARTITIONS)
    assert headers["dlq.replayed"] == listed["replay-1"]["place"].encode()


def _replayed(bootstrap: str) -> list[tuple[int, bytes | None, dict[str, bytes]]]:
    with Reader(bootstrap, TELEMETRY.name) as reader:
        return [(one.partition, one.value, dict(one.headers)) for one in reader.last(None) if one.key == b"replay-1"]


def test_an_unknown_letter_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "replay", "0@999999", "--yes"]) == 2
    assert "no dead letter lies at 0@999999" in capsys.readouterr().err


def _empty(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    known = admin.list_topics(topic, timeout=10).topics[topic].partitions
    for future in admin.delete_records([TopicPartition(topic, number, OFFSET_END) for number in known]).values():
        future.result(10)
