"""The batch transport: the private names that it leans on exist, and a fetch is cut into batches as promised."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver

from streams import transport
from streams.app import build
from streams.errors import TransportUnsupported
from streams.jobs.features import FeaturesJob
from streams.progress import Partition, Progress
from streams.settings import WorkerSettings


def test_the_installed_versions_have_every_private_name() -> None:
    transport.check_pins()


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (faust_consumer.Consumer._new_offset, ["self", "tp"]),
        (faust_consumer.Consumer._should_commit, ["self", "tp", "offset"]),
        (faust_consumer.Consumer._add_gap, ["self", "tp", "offset_from", "offset_to"]),
        (faust_consumer.Consumer._filter_tps_with_pending_acks, ["self", "topics"]),
        (faust_consumer.Consumer.ack, ["self", "message"]),
        (driver.Consumer._to_message, ["self", "tp", "record"]),
        (driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"]),
        (driver.AIOKafkaConsumerThread._commit, ["self", "offsets"]),
    ],
)
def test_overridden_methods_take_what_faust_calls_them_with(method: Any, parameters: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == parameters


def test_a_missing_name_is_told_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"faust.Gone": (object(), ("_new_offset",))}
    monkeypatch.setattr(transport, "PINNED", gone)
    with pytest.raises(
        TransportUnsupported, match=r"faust-streaming .* has no faust.Gone._new_offset, which the batch"
    ):
        transport.check_pins()


def test_a_missing_consumer_option_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CONSUMER_OPTIONS", ("fetch_teleport",))
    with pytest.raises(TransportUnsupported, match=r"aiokafka .* has no consumer option fetch_teleport; install"):
        transport.check_pins()


def fetch(topic: str, partition: int, first: int, count: int) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(topic=topic, partition=partition, offset=first + n, timestamp=5, timestamp_type=0)
        for n in range(count)
    ]


def test_a_fetch_is_cut_into_batches_in_order_and_in_turn() -> None:
    scheduler = transport.BatchScheduler()
    scheduler.max_batch = 3
    a, b = Partition("t", 0), Partition("t", 1)
    out = list(scheduler.iterate({a: fetch("t", 0, 10, 7), b: fetch("t", 1, 0, 2)}))
    assert [(tp.partition, [one.offset for one in batch.value]) for tp, batch in out] == [
        (0, [10, 11, 12]),
        (1, [0, 1]),
        (0, [13, 14, 15]),
        (0, [16]),
    ]
    assert [batch.offset for _, batch in out] == [12, 1, 15, 16]
    assert list(scheduler.iterate({})) == []


def consumer_of(folder: Path) -> Any:
    app = build(FeaturesJob(), WorkerSettings(bootstrap="127.0.0.1:1", data_dir=folder))
    return app.consumer


def test_commits_follow_progress_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        consumer = consumer_of(tmp_path)
        progress: Progress = consumer.app.progress
        tp = Partition("energy.telemetry.node.v1", 0)
        message = consumer._to_message(tp, transport.Batch(fetch(tp.topic, 0, 0, 500)))
        assert message.offset == 499
        assert consumer.ack(message) is False
        assert consumer._filter_committable_offsets(consumer._filter_tps_with_pending_acks()) == {}
        progress.done(tp, 499)
        assert consumer._filter_committable_offsets(consumer._filter_tps_with_pending_acks()) == {tp: 500}
        assert list(consumer._filter_tps_with_pending_acks({"another"})) == []
        await consumer._add_gap(tp, 0, 10**12)
        consumer._thread.thread_loop.close()  # made with the consumer, for a thread that this test does not start

    asyncio.run(scenario())


def test_the_apps_settings_are_those_that_were_measured(tmp_path: Path) -> None:
    async def scenario() -> Any:
        return build(FeaturesJob(), WorkerSettings(bootstrap="a:1,b:2", data_dir=tmp_path, cluster="west"))

    conf = asyncio.run(scenario()).conf
    assert conf.id == "eo-west-features"
    assert [str(url) for url in conf.broker] == ["kafka://a:1", "kafka://b:2"]
    assert not conf.topic_allow_declare and conf.topic_disable_leader and not conf.web_enabled
    assert not conf.stream_wait_empty and conf.table_standby_replicas == 0
    assert conf.broker_heartbeat_interval < conf.broker_session_timeout <= conf.broker_request_timeout
    assert conf.broker_rebalance_timeout < conf.broker_request_timeout
