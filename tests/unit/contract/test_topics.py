"""The topic table: names, kinds and the settings that a broker is asked for."""

from __future__ import annotations

import re

import pytest

from streams.contract.topics import DESIRED, INTENT, TELEMETRY, TOPICS, Topic


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_name_keeps_the_pattern_and_somebody_writes_and_reads(topic: Topic) -> None:
    assert re.fullmatch(r"energy\.[a-z]+(\.[a-z]+)?\.v1", topic.name)
    assert topic.writers
    assert topic.readers
    assert (topic.retention_ms is None) == (topic.cleanup == "compact")


def test_names_and_records_are_unique() -> None:
    records = [topic.record for topic in TOPICS if topic.record is not None]
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)
    assert len(set(records)) == len(records)


def test_broker_settings() -> None:
    assert TELEMETRY.config() == {"cleanup.policy": "delete", "retention.ms": "172800000"}
    assert DESIRED.config() == {"cleanup.policy": "compact", "segment.ms": "600000"}


def test_intents_have_one_partition_whatever_the_cluster_uses() -> None:
    assert INTENT.partition_count(24) == 1
    assert TELEMETRY.partition_count(4) == 4
