"""The ledger as a process on a real broker: a line per change, killed in the middle and taken up again."""

from __future__ import annotations

import time

import msgspec
import pytest
from confluent_kafka import Producer

from streams.contract import codec
from streams.contract.kafka import producer_config
from streams.contract.records import JobState, LedgerEntry, PowerDesired
from streams.contract.signing import Signer
from streams.contract.topics import APPLIED, DESIRED, DLQ, FEATURES, LEDGER, STATE
from streams.jobs.ledger_book import WINDOW_NS
from tests.faults.worker_rig import read_all, until
from tests.integration.conftest import JobWorkers
from tests.integration.test_actuation import Site
from tests.unit.cli.test_explain import command
from tests.unit.jobs.support import ack, features

pytestmark = pytest.mark.integration
S = 10**9


def report(site: Site, start_ns: int, seconds: int, power_w: float) -> None:
    producer = Producer(producer_config(site.bootstrap, "test-nodes"))
    for i in range(seconds):
        record = features(site.nodes[0], start_ns // S + i, ts_ns=start_ns + i * S, power_w=power_w)
        value = codec.encode(msgspec.structs.replace(record, cluster=site.cluster))
        producer.produce(FEATURES.name, key=record.node.encode(), value=value)
    assert producer.flush(30) == 0


def envelope(site: Site, issued_ns: int) -> PowerDesired:
    uuids = tuple(f"GPU-{site.nodes[0]}-{i}" for i in range(2))
    raw = command(cluster=site.cluster, node=site.nodes[0], issued_at_ns=issued_ns, sample_ts_ns=issued_ns - S // 10)
    columns = msgspec.structs.replace(raw.gpu, uuid=uuids)
    return Signer.load(site.layout.actuation_key).sign(msgspec.structs.replace(raw, gpu=columns))


def open_lines(site: Site) -> int:
    """Lines with a known power before, in the newest snapshot."""
    newest = 0
    for key, value in read_all(site.bootstrap, STATE):
        if key is not None and key.startswith(f"{site.cluster}/ledger/".encode()) and value is not None:
            books = msgspec.json.decode(codec.decode(JobState, value).data)["books"]
            ours = [b for b in books if b["cluster"] == site.cluster]
            newest = sum(line[11] is not None for b in ours for line in b["open"].values()) if ours else newest
    return newest


def lines(site: Site) -> list[LedgerEntry]:
    found = [codec.decode(LedgerEntry, value) for _, value in read_all(site.bootstrap, LEDGER)]
    return [entry for entry in found if entry.cluster == site.cluster]


def test_lines_open_at_a_kill_are_closed_by_the_next_worker(job_site: Site, workers: JobWorkers) -> None:
    workers.begin("ledger").wait_ready()
    now = time.time_ns() // S * S
    report(job_site, now - 19 * S, 20, 500.0)
    one = envelope(job_site, now)
    job_site.send(one, one.node)
    until(lambda: open_lines(job_site) == 2, 30, "a snapshot with both lines")
    workers.started[0].kill()
    workers.begin("ledger")
    job_site.send(msgspec.structs.replace(ack(one, ts_ns=now + S // 5), ack_seq=1), one.node)
    report(job_site, now + S, 25, 430.0)
    until(lambda: len(lines(job_site)) == 2, 60, "both lines closed")
    for line in lines(job_site):
        assert (line.status, line.epoch, line.seq) == ("applied", 7, 3)
        assert (line.power_before_w, line.power_after_w) == (500.0, 430.0)
        assert line.loop_ms == 300.0 and line.closed_ns - (line.acked_ns or 0) == WINDOW_NS
    assert workers.started[1].stop() == 0
    assert len(lines(job_site)) == 2


def test_poison_on_each_topic_is_dead_lettered(job_site: Site, workers: JobWorkers) -> None:
    producer = Producer(producer_config(job_site.bootstrap, "test-poison"))
    key = job_site.nodes[0].encode()
    for topic in (DESIRED, APPLIED, FEATURES):
        producer.produce(topic.name, key=key, value=b"\x00" + job_site.cluster.encode())
    assert producer.flush(30) == 0
    workers.begin("ledger")
    wanted = b"\x00" + job_site.cluster.encode()
    until(lambda: sum(v == wanted for _, v in read_all(job_site.bootstrap, DLQ)) == 3, 60, "three dead letters")
    assert workers.started[0].stop() == 0
