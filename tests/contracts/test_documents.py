"""The generated documents are current, complete and honest about what a client will meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from streams.contract import asyncapi
from streams.contract.topics import DLQ, INTENT, STATE, TELEMETRY, TOPICS, Topic


def test_generated_files_are_current() -> None:
    stale = [path.name for path in asyncapi.outdated()]
    assert stale == [], "run: python -m streams.contract.asyncapi"


def test_document_holds_the_table_with_every_topic() -> None:
    text = asyncapi.DOCUMENT.read_text()
    assert all(f"`{topic.name}`" in asyncapi.topic_table() for topic in TOPICS)
    assert asyncapi.topic_table() in text


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_channel_says_what_the_topic_table_says(topic: Topic) -> None:
    channel = asyncapi.asyncapi()["channels"][asyncapi.short(topic)]
    kafka = channel["bindings"]["kafka"]
    assert channel["address"] == kafka["topic"] == topic.name
    assert kafka["partitions"] == (topic.partitions or 24)
    assert kafka["topicConfiguration"].get("retention.ms") == topic.retention_ms
    assert kafka["topicConfiguration"]["cleanup.policy"] == [topic.cleanup]


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [ref for item in value for ref in references(item)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [ref for item in value.values() for ref in references(item)]


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    document = asyncapi.asyncapi()
    found = references(document)
    assert len(found) > 50
    for ref in found:
        target = document
        for step in ref.removeprefix("#/").split("/"):
            target = target[step]
        assert target, ref


def test_operations_name_each_writer_and_reader_and_its_group() -> None:
    operations = asyncapi.asyncapi()["operations"]
    assert len(operations) == sum(len(topic.writers) + len(topic.readers) for topic in TOPICS)
    group = operations["features.receive.telemetry.node"]["bindings"]["kafka"]["groupId"]
    assert group["pattern"] == "^eo-.+-features$"
    assert "bindings" not in operations["node.receive.power.desired"]
    assert "bindings" not in operations["features.receive.state.job"]


def test_headers_follow_the_topic() -> None:
    messages = asyncapi.asyncapi()["components"]["messages"]
    assert "ce_type" not in messages["NodeTelemetry"]["headers"]["properties"]
    assert messages["OperatorIntent"]["headers"]["properties"]["ce_type"]["const"] == INTENT.name
    assert set(messages["DeadLetter"]["headers"]["required"]) >= {"dlq.topic", "dlq.offset", "dlq.error"}


def test_dead_letter_queue_has_no_schema() -> None:
    with pytest.raises(ValueError, match="original bytes"):
        asyncapi.record_schema(DLQ)


def test_check_names_the_stale_file_and_write_heals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asyncapi, "SCHEMAS", tmp_path)
    monkeypatch.setattr(asyncapi, "DOCUMENT", tmp_path / "contract.md")
    assert asyncapi.main([]) == 0
    assert asyncapi.main(["--check"]) == 0
    (tmp_path / f"{TELEMETRY.name}.schema.json").write_text("{}")
    (tmp_path / "energy.gone.v1.schema.json").write_text("{}")
    capsys.readouterr()
    assert asyncapi.main(["--check"]) == 1
    assert f"out of date: {TELEMETRY.name}.schema.json" in capsys.readouterr().out
    assert asyncapi.main([]) == 0
    assert not (tmp_path / "energy.gone.v1.schema.json").exists()
    assert json.loads((tmp_path / f"{STATE.name}.schema.json").read_text())["$id"] == f"{STATE.name}.schema.json"


def test_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        asyncapi.with_table("no markers here")
