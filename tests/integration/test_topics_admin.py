"""The contract's topics on a real broker: made once, compared exactly, never repartitioned in place."""

from __future__ import annotations

import pytest

from agents.cli.topic_admin import apply, plan
from streams.contract.topics import TOPICS
from tests.conftest import PARTITIONS, KafkaForTests

pytestmark = pytest.mark.integration


def test_apply_makes_every_topic_and_is_idempotent(kafka: KafkaForTests, topics: str) -> None:
    assert kafka.bootstrap == topics
    again = apply(topics, partitions=PARTITIONS)
    assert {change.action for change in again} == {"same"}
    assert {change.topic for change in again} == {topic.name for topic in TOPICS}


def test_another_partition_count_is_blocked_and_named(topics: str) -> None:
    changes = plan(topics, partitions=6)
    blocked = [change for change in changes if change.action == "blocked"]
    assert len(blocked) == sum(topic.partitions is None for topic in TOPICS)
    assert blocked[0].detail.startswith("4 partitions, 6 wanted; a count never changes in place: pass --partitions 4")
    assert {change.action for change in apply(topics, partitions=6)} == {"blocked", "same"}
    assert {change.action for change in plan(topics, partitions=PARTITIONS)} == {"same"}
