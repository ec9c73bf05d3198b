"""Settings that every confluent-kafka client of the product shares. Plain dictionaries: no client is made here."""

from __future__ import annotations

import os
from collections.abc import Mapping

Config = dict[str, str | int | float | bool]


def security(env: Mapping[str, str] = os.environ) -> Config:
    """SASL/TLS settings from the environment: each EO_KAFKA_<NAME> becomes librdkafka's <name> with dots.

    EO_KAFKA_SECURITY_PROTOCOL, EO_KAFKA_SASL_MECHANISM, EO_KAFKA_SASL_USERNAME, EO_KAFKA_SASL_PASSWORD,
    EO_KAFKA_SSL_CA_LOCATION, EO_KAFKA_SSL_CERTIFICATE_LOCATION, EO_KAFKA_SSL_KEY_LOCATION.
    """
    prefix = "EO_KAFKA_"
    chosen = {name.removeprefix(prefix): value for name, value in env.items() if name.startswith(prefix)}
    return {name.lower().replace("_", "."): value for name, value in chosen.items()}


def producer_config(bootstrap: str, client_id: str, *, linger_ms: int = 5) -> Config:
    """Acked by all replicas, idempotent, zstd, and the partitioner of the Java and Faust clients (murmur2).

    `message.timeout.ms` 0 = never give up: the spool, not the client, decides what is lost.
    """
    return {
        "bootstrap.servers": bootstrap,
        "client.id": client_id,
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "compression.type": "zstd",
        "linger.ms": linger_ms,
        "message.timeout.ms": 0,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 2000,
        **security(),
    }


def assigned_consumer_config(bootstrap: str, client_id: str, *, offset_reset: str = "earliest") -> Config:
    """A consumer for assign(): no group is joined, nothing is committed, only committed transactions are read.

    librdkafka wants a group id even so, and asks for its coordinator once: allow READ on the prefix `eo-assign-`.
    """
    return {
        "bootstrap.servers": bootstrap,
        "client.id": client_id,
        "group.id": f"eo-assign-{client_id}",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": offset_reset,
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 50,
        "enable.partition.eof": False,
        "reconnect.backoff.max.ms": 2000,
        **security(),
    }


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that murmur2_random, Java and Faust choose for a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bit, with Kafka's seed (public domain algorithm by Austin Appleby)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def commit_note(wall_ns: int) -> str:
    """What a commit carries beside its offset: when it was made, for whoever asks the broker how a job gets on.

    It ends with a NUL of its own: confluent-kafka 2.16 reads the note as a C string and runs past its end without one.
    """
    return f"eo1 {wall_ns}\0"


def committed_ns(note: str | None) -> int | None:
    """The time of a commit from its note; None for one without (an older worker, another program)."""
    kind, _, text = (note or "").partition("\0")[0].partition(" ")
    return int(text) if kind == "eo1" and text.isdecimal() and len(text) <= 19 else None
