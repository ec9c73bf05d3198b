"""Which Kubernetes namespace and pod holds each GPU now, by the newest telemetry of a cluster's nodes.

Only a moment of the topic is read, and only the few fields that are needed are decoded: at a thousand nodes the whole
stream would cost a core. It joins no group and never writes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from streams.contract.kafka import assigned_consumer_config
from streams.contract.topics import TELEMETRY
from streams.errors import StreamsError

if TYPE_CHECKING:
    from confluent_kafka import Consumer

BACK_S: Final = 3.0  # every node sends each second
LONGEST_S: Final = 8.0
AT_ONCE: Final = 500
ASK_S: Final = 5.0
Names = tuple[str | None, ...]


class Place(NamedTuple):
    """Who holds a GPU; None = nobody, or its source does not say."""

    namespace: str | None
    pod: str | None


class Placement(NamedTuple):
    """One node's GPUs at one moment."""

    node: str
    ts_ns: int
    gpus: Mapping[str, Place]


class _Gpu(msgspec.Struct):
    uuid: tuple[str, ...] = ()
    namespace: Names | None = None
    pod: Names | None = None


class _Telemetry(msgspec.Struct):
    cluster: str
    node: str
    ts_ns: int
    gpu: _Gpu | None = None


_DECODER: Final = msgspec.json.Decoder(_Telemetry)


def read_one(value: bytes | None, cluster: str) -> Placement | None:
    """The placement in one message of telemetry; None for another cluster's and for what does not decode."""
    try:
        found = _DECODER.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # the jobs send it to the dead letters
    if found.cluster != cluster:
        return None
    gpu = found.gpu or _Gpu()
    size = len(gpu.uuid)
    namespaces, pods = _column(gpu.namespace, size), _column(gpu.pod, size)
    return Placement(found.node, found.ts_ns, dict(zip(gpu.uuid, map(Place, namespaces, pods), strict=True)))


def _column(values: Names | None, size: int) -> Names:
    return values if values is not None and len(values) == size else (None,) * size


def newest(found: Iterable[Placement]) -> dict[str, Placement]:
    """The newest placement of each node."""
    kept: dict[str, Placement] = {}
    for one in found:
        if one.node not in kept or one.ts_ns >= kept[one.node].ts_ns:
            kept[one.node] = one
    return kept


def by_namespace(placements: Iterable[Placement]) -> dict[str, frozenset[str]]:
    """GPUs of each namespace."""
    found: dict[str, set[str]] = defaultdict(set)
    for one in placements:
        for uuid, place in one.gpus.items():
            if place.namespace:
                found[place.namespace].add(uuid)
    return {name: frozenset(uuids) for name, uuids in found.items()}


class PlacementReader:
    """Reads moments of the telemetry topic of one cluster; one connection, kept. `close()` when done."""

    def __init__(self, bootstrap: str, cluster: str, *, client_id: str = "eo-placement") -> None:
        self._bootstrap, self._cluster, self._client_id = bootstrap, cluster, client_id
        self._consumer: Consumer | None = None

    def look(self) -> dict[str, Placement]:
        """The newest placement of each node that reported in the last moment; raises StreamsError when none is told."""
        from confluent_kafka import KafkaException

        try:
            return newest(self._read(self._connected()))
        except KafkaException as error:
            first = error.args[0]
            why = first.str() if hasattr(first, "str") else str(first)
            raise StreamsError(f"{TELEMETRY.name} cannot be read at {self._bootstrap} ({why})") from error

    def _connected(self) -> Consumer:
        from confluent_kafka import Consumer

        if self._consumer is None:
            config = assigned_consumer_config(self._bootstrap, self._client_id)
            self._consumer = Consumer(config | {"enable.partition.eof": True, "log_level": 0})
        return self._consumer

    def _read(self, consumer: Consumer) -> Iterable[Placement]:
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        known = consumer.list_topics(TELEMETRY.name, timeout=ASK_S).topics[TELEMETRY.name]
        if known.error is not None:
            raise KafkaException(known.error)
        since_ms = int((time.time() - BACK_S) * 1000)
        asked = [TopicPartition(TELEMETRY.name, number, since_ms) for number in known.partitions]
        places = [place for place in consumer.offsets_for_times(asked, timeout=ASK_S) if place.offset >= 0]
        consumer.assign(places)
        open_, deadline = {place.partition for place in places}, time.monotonic() + LONGEST_S
        found: list[Placement] = []
        while open_ and time.monotonic() < deadline:
            for message in consumer.consume(AT_ONCE, 0.2):
                error: Any = message.error()
                if error is None:
                    one = read_one(message.value(), self._cluster)
                    found += [] if one is None else [one]
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_.discard(message.partition())
                elif error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED and not error.retriable():
                    raise KafkaException(error)
        consumer.unassign()
        return found

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
