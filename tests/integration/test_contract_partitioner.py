"""The partition that we compute for a key is where librdkafka's murmur2_random puts it, on a real broker."""

from __future__ import annotations

import pytest
from confluent_kafka import Message, Producer

from streams.contract.kafka import partition_of, producer_config
from streams.contract.topics import TELEMETRY

KEYS = [f"node-{number:05d}".encode() for number in range(500)] + [b"x", "nœud-µ".encode(), b"\xff\x00\x80", b"a" * 300]


@pytest.mark.integration
def test_real_producer_chooses_our_partition(topics: str) -> None:
    landed: dict[bytes, int] = {}
    errors: list[str] = []

    def delivered(error: object, message: Message) -> None:
        if error is not None:
            errors.append(str(error))
            return
        key, partition = message.key(), message.partition()
        assert isinstance(key, bytes)
        assert partition is not None
        landed[key] = partition

    producer = Producer(producer_config(topics, "partitioner-test"))
    for key in KEYS:
        producer.produce(TELEMETRY.name, key=key, value=b"{}", on_delivery=delivered)
    assert producer.flush(60) == 0
    assert errors == []
    count = len(producer.list_topics(TELEMETRY.name, timeout=10).topics[TELEMETRY.name].partitions)
    assert landed == {key: partition_of(key, count) for key in KEYS}
    assert set(landed.values()) == set(range(count))
