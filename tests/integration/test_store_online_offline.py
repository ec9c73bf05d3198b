"""What the stream computed on real Kafka equals, bit by bit, what the archive gives when it is computed again.

Across a restart of the features job in the middle, duplicates, gaps, a rebooted node and poison.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import KafkaError, KafkaException

from models.features.registry import FEATURES
from streams.contract import codec
from streams.contract.errors import ContractError
from streams.contract.layout import Layout
from streams.contract.records import NodeFeatures, NodeTelemetry
from streams.contract.topics import FEATURES as FEATURES_TOPIC
from streams.contract.topics import TELEMETRY, Topic
from streams.jobs.archive import ArchiveJob
from streams.jobs.base import Job, JobContext
from streams.jobs.features import FeaturesJob
from streams.publisher import Publisher
from streams.replay import Replay, ReplayRecord
from streams.settings import WorkerSettings
from streams.state import StateStore
from streams.store.offline import OfflineStore
from streams.store.online import OnlineStore
from streams.store.recompute import archived, recompute
from tests.unit.store.telemetry import as_bytes, telemetry

pytestmark = pytest.mark.integration
NODES, SECONDS, S = 5, 150, 1_000_000_000
NAMES = tuple(feature.name for feature in FEATURES)
Key = tuple[str, str, int, str]


def context(bootstrap: str, folder: Path, publisher: Publisher) -> JobContext:
    return JobContext(
        settings=WorkerSettings(cluster="online-offline", bootstrap=bootstrap, data_dir=folder),
        publisher=publisher,
        state=StateStore(bootstrap, publisher, cluster="online-offline", client_id="online-offline"),
        layout=Layout(folder),
        wall_ns=time.time_ns,
        monotonic=time.monotonic,
        log=logging.getLogger(__name__),
    )


def samples(begin_ns: int) -> Iterator[tuple[str, bytes]]:
    """Node and value of each message: seconds of all nodes in turn, with what goes wrong in a real fleet."""
    generator = np.random.default_rng(4)
    for second in range(SECONDS):
        for number in range(NODES):
            if generator.random() < 0.03:
                continue  # a gap
            boot, seq = ("second", second - 90) if number == 2 and second >= 90 else ("first", second)
            node = f"oo-{number}"
            value = codec.encode(
                telemetry(seq, generator, node=node, boot_id=boot, ts_ns=begin_ns + second * S, prefix=f"GPU-{node}")
            )
            yield node, value
            if generator.random() < 0.03:
                yield node, value  # sent twice
            if generator.random() < 0.01:
                yield node, value[: len(value) // 2]  # poison


def ends(bootstrap: str, topic: Topic) -> dict[int, int]:
    """End offset of each partition; a topic that was just made may still be choosing its leaders."""
    deadline = time.monotonic() + 30
    with Replay(bootstrap, "oo-ends") as replay:
        while True:
            try:
                return {p: replay.bounds(topic.name, p)[1] for p in range(replay.partitions(topic.name))}
            except KafkaException as error:
                if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                    raise


def published(bootstrap: str, publisher: Publisher) -> tuple[int, dict[int, int]]:
    """Sends the samples; returns the first one's time and the offsets at which each partition's stretch begins."""
    begin_ns = time.time_ns() - SECONDS * S
    begin = ends(bootstrap, TELEMETRY)
    for node, value in samples(begin_ns):
        publisher.send_raw(TELEMETRY.name, node.encode(), value, ())
    assert publisher.flush(30) == 0
    return begin_ns, begin


def stretch(bootstrap: str, topic: Topic, begin: dict[int, int]) -> dict[int, list[ReplayRecord]]:
    with Replay(bootstrap, "oo-stretch") as replay:
        ends = {p: replay.bounds(topic.name, p)[1] for p in begin}
        return {
            p: [r for chunk in replay.read(topic.name, p, start=begin[p], end=ends[p]) for r in chunk] for p in begin
        }


def run(job: Job, topic: Topic, records: dict[int, Sequence[ReplayRecord]], *, batch: int) -> None:
    """One life of a job: assigned, fed in batches, revoked."""
    job.assign(frozenset(records))
    for partition, whole in records.items():
        for start in range(0, len(whole), batch):
            job.process(topic, partition, whole[start : start + batch])
            list(job.tick())
    job.revoke(frozenset(records))
    job.stop()


def started(job: Any, ctx: JobContext) -> Any:
    job.start(ctx)
    return job


def of_topic(records: dict[int, list[ReplayRecord]]) -> dict[Key, dict[str, bytes]]:
    out: dict[Key, dict[str, bytes]] = {}
    for record in (codec.decode(NodeFeatures, one.value) for part in records.values() for one in part):
        for index, uuid in enumerate(record.uuid):
            key = (record.node, record.boot_id, record.seq, uuid)
            assert key not in out, "a duplicate of telemetry made a second feature row"
            out[key] = {name: as_bytes(record.features[name][index]) for name in NAMES}
    return out


def of_rows(table: pa.Table) -> dict[Key, dict[str, bytes]]:
    return {
        (row["node"], row["boot_id"], row["seq"], row["uuid"]): {name: as_bytes(row[name]) for name in NAMES}
        for row in table.to_pylist()
    }


def good(begin_ns: int) -> set[Key]:
    """Identity of every feature row that must be there: one for each GPU of each sample that decodes."""
    found: set[Key] = set()
    for node, value in samples(begin_ns):
        try:
            record = codec.decode(NodeTelemetry, value)
        except ContractError:
            continue
        uuids = record.gpu.uuid if record.gpu is not None else ()
        found |= {(node, record.boot_id, record.seq, uuid) for uuid in uuids}
    return found


def test_features_online_and_offline_are_equal_bit_by_bit(topics: str, tmp_path: Path) -> None:
    publisher = Publisher(topics, "online-offline")
    ctx = context(topics, tmp_path, publisher)
    begin_ns, begin = published(topics, publisher)
    incoming = stretch(topics, TELEMETRY, begin)
    begin_out = ends(topics, FEATURES_TOPIC)
    for part, batch in ((slice(None, 61), 17), (slice(61, None), 40)):
        half = {partition: whole[part] for partition, whole in incoming.items() if whole[part]}
        run(started(FeaturesJob(), ctx), TELEMETRY, half, batch=batch)
        assert publisher.flush(30) == 0
    outgoing = stretch(topics, FEATURES_TOPIC, begin_out)
    run(started(ArchiveJob(), ctx), TELEMETRY, incoming, batch=50)
    run(started(ArchiveJob(), ctx), FEATURES_TOPIC, outgoing, batch=50)
    assert publisher.flush(30) == 0

    online = of_topic(outgoing)
    assert set(online) == good(begin_ns)
    known = {name: any(row[name] != b"unknown" for row in online.values()) for name in NAMES}
    assert all(known.values()), known
    assert online == of_rows(recompute(archived(tmp_path / "archive", start_ns=begin_ns, end_ns=time.time_ns())))
    assert_point_in_time_is_what_online_says(outgoing, OfflineStore(tmp_path / "archive"))


def assert_point_in_time_is_what_online_says(outgoing: dict[int, list[ReplayRecord]], offline: OfflineStore) -> None:
    ttl_s = dict.fromkeys(NAMES, 3600.0)  # long enough for a slow machine; times to live have tests of their own
    store = OnlineStore(ttl_s)
    sent = [codec.decode(NodeFeatures, one.value) for part in outgoing.values() for one in part]
    for record in sorted(sent, key=lambda record: record.emitted_ns):
        store.push(record)
    asked_ns = time.time_ns()
    entities = pa.table({"gpu_uuid": list(store.gpus()), "ts_ns": pa.array([asked_ns] * len(store.gpus()), pa.int64())})
    rows = offline.point_in_time(entities, ttl_s).to_pylist()
    assert len(rows) == NODES * 3
    for row in rows:
        values = {value.feature: as_bytes(value.value) for value in store.row(row["gpu_uuid"], now_ns=asked_ns)}
        assert {name: as_bytes(row[name]) for name in NAMES} == values
