"""Client settings and the partitioner: the same partition as the Java-style client that Faust brings along."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference

from streams.contract.kafka import assigned_consumer_config, murmur2, partition_of, producer_config, security

KEYS = [b"", b"a", b"ab", b"abc", b"abcd", b"gpu-017", "nœud-µ".encode(), bytes(range(256)), b"\xff" * 7]


@pytest.mark.parametrize("key", KEYS)
def test_murmur2_is_the_reference(key: bytes) -> None:
    assert murmur2(key) == reference(key) & 0xFFFFFFFF


@pytest.mark.parametrize("partitions", [1, 4, 24])
def test_partition_is_the_other_clients_partition(partitions: int) -> None:
    choose, all_partitions = DefaultPartitioner(), list(range(partitions))
    for number in range(500):
        key = f"node-{number:05d}".encode()
        assert partition_of(key, partitions) == choose(key, all_partitions, all_partitions)


def test_security_comes_from_the_environment_only() -> None:
    env = {"EO_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "EO_KAFKA_SSL_CA_LOCATION": "/ca.pem", "HOME": "/root"}
    assert security(env) == {"security.protocol": "SASL_SSL", "ssl.ca.location": "/ca.pem"}
    assert security({}) == {}


def test_producer_never_gives_up_and_never_doubles() -> None:
    config = producer_config("b:1", "c", linger_ms=20)
    assert (config["acks"], config["enable.idempotence"], config["message.timeout.ms"]) == ("all", True, 0)
    assert (config["partitioner"], config["linger.ms"]) == ("murmur2_random", 20)


def test_assigned_consumer_commits_nothing_and_reads_committed() -> None:
    config = assigned_consumer_config("b:1", "node-1")
    assert config["enable.auto.commit"] is False
    assert config["isolation.level"] == "read_committed"
    assert config["group.id"] == "eo-assign-node-1"
