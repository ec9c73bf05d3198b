"""Batch transport: hands a Faust agent one fetch of one partition as one event, 2-15 us per message instead of 125-270.

It also owns the commits: Faust 0.15.3 commits past a message that is still being worked on when acknowledgements come
out of order, and loses its way over the offset gaps of compacted and transactional topics. Here a partition's commit
follows streams.progress and nothing else; Faust's own acknowledgements are ignored.

It overrides private names of Faust, so their presence is checked before a worker starts (`check_pins`) and by a test.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiokafka
import faust
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport import consumer as faust_consumer
from faust.transport.drivers import aiokafka as driver
from faust.transport.utils import DefaultSchedulingStrategy

from streams.contract.kafka import commit_note
from streams.errors import TransportUnsupported
from streams.jobs.base import ConsumerRecord
from streams.progress import Progress

FINAL_COMMIT_S: Final = 3.0  # a commit before partitions are given up may take this long, then others read again
log = logging.getLogger("streams.commits")  # the services of this module log under its name, and too much

PINNED: Final[dict[str, tuple[object, tuple[str, ...]]]] = {
    "faust.transport.consumer.Consumer": (
        faust_consumer.Consumer,
        ("_new_offset", "_should_commit", "_add_gap", "_filter_tps_with_pending_acks", "_commit", "_to_message", "ack"),
    ),
    "faust.transport.drivers.aiokafka.Consumer": (driver.Consumer, ("_new_consumer_thread", "_to_message")),
    "faust.transport.drivers.aiokafka.AIOKafkaConsumerThread": (
        driver.AIOKafkaConsumerThread,
        ("_create_worker_consumer", "_commit", "_ensure_consumer"),
    ),
    "faust.transport.drivers.aiokafka": (driver, ("credentials_to_aiokafka_auth", "server_list")),
    "faust.App": (faust.App, ("_new_transport", "_create_directories")),
}
CONSUMER_OPTIONS: Final = ("fetch_min_bytes", "fetch_max_wait_ms", "isolation_level", "group_instance_id")


def check_pins() -> None:
    """Raises TransportUnsupported with the first name that the installed Faust or aiokafka lacks."""
    for owner, (where, names) in PINNED.items():
        for name in names:
            if not hasattr(where, name):
                raise TransportUnsupported(
                    f"faust-streaming {faust.__version__} has no {owner}.{name}, which the batch transport overrides; "
                    "install the version pinned in pyproject.toml"
                )
    known = inspect.signature(aiokafka.AIOKafkaConsumer.__init__).parameters
    for option in CONSUMER_OPTIONS:
        if option not in known:
            raise TransportUnsupported(
                f"aiokafka {aiokafka.__version__} has no consumer option {option}; "
                "install the version pinned in pyproject.toml"
            )


@dataclass(frozen=True, slots=True)
class FetchTuning:
    """How records are fetched and handed out."""

    max_batch: int = 500
    max_wait_ms: int = 50
    min_bytes: int = 65_536


class Hooks(Protocol):
    """What the runtime does around a rebalance."""

    async def revoking(self, partitions: set[tuple[str, int]]) -> None:
        """Partitions are about to go: finish, make durable, let go."""
        ...

    def assigning(self, partitions: set[tuple[str, int]]) -> None:
        """New partitions are known; no batch of theirs has been handed out."""
        ...


class Batch:
    """Consecutive records of one partition in the shape of one record; `offset` is the last one, `value` the list."""

    __slots__ = ("offset", "partition", "timestamp", "timestamp_type", "topic", "value")
    headers: Final = ()
    key: Final = None
    checksum: Final = None
    serialized_key_size: Final = 0
    serialized_value_size: Final = 0

    def __init__(self, records: Sequence[Any]) -> None:
        last = records[-1]
        self.topic: str = last.topic
        self.partition: int = last.partition
        self.offset: int = last.offset
        self.timestamp: int | None = last.timestamp
        self.timestamp_type: int | None = last.timestamp_type
        self.value: Sequence[ConsumerRecord] = records


class BatchScheduler(DefaultSchedulingStrategy):  # type: ignore[misc]  # Faust is untyped
    """Cuts a fetch into batches, one partition after the other, so that none starves."""

    max_batch = 500

    def iterate(self, records: Mapping[Any, Sequence[Any]]) -> Iterator[tuple[Any, Batch]]:
        """Batches of at most `max_batch` records, round robin over partitions, in order within each."""
        longest = max(map(len, records.values()), default=0)
        for start in range(0, longest, self.max_batch):
            for tp, run in records.items():
                if part := run[start : start + self.max_batch]:
                    yield tp, Batch(part)


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is untyped
    """The consumer in its own thread, with our fetch settings; a failed commit is a warning, liveness is the judge."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        conf, tuning = self.app.conf, self.app.fetch
        security = driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context)
        # The range assignor gives equal partitions of equally partitioned topics to one worker.
        self._assignor = RangePartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            bootstrap_servers=driver.server_list(transport.url, transport.default_port),
            partition_assignment_strategy=[RangePartitionAssignor],
            enable_auto_commit=False,
            auto_offset_reset=conf.consumer_auto_offset_reset,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 0) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=tuning.max_wait_ms,
            fetch_min_bytes=tuning.min_bytes,
            isolation_level="read_committed",  # the same as read_uncommitted where nobody writes transactions
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            check_crcs=conf.broker_check_crcs,
            metadata_max_age_ms=conf.consumer_metadata_max_age_ms,
            connections_max_idle_ms=conf.consumer_connections_max_idle_ms,
            **security,
        )

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        note = commit_note(time.time_ns())
        mine = {
            TopicPartition(*tp): OffsetAndMetadata(offset, note)
            for tp, offset in offsets.items()
            if tp in self.assignment()
        }
        try:
            if mine:
                await self._ensure_consumer().commit(mine)
        except KafkaError as error:
            log.warning("commit of %d partitions failed and is tried again: %r", len(mine), error)
            return False
        return bool(mine)


class Consumer(driver.Consumer):  # type: ignore[misc]  # Faust is untyped
    """Faust's consumer with batches for every topic and commits from streams.progress."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._progress: Progress = self.app.progress
        self.scheduler = BatchScheduler()
        self.scheduler.max_batch = self.app.fetch.max_batch

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: Any, record: Batch) -> Any:
        self._progress.delivered(tp, record.offset)
        return super()._to_message(tp, record)

    def ack(self, message: Any) -> bool:
        """Ignored: Faust acknowledges what it skipped in a rebalance too. The runtime reports to streams.progress."""
        message.acked = True
        return False

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """A batch covers the gaps before its last offset."""

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[Any]:
        return (tp for tp in self._progress.tracked() if topics is None or tp in topics or tp[0] in topics)

    def _new_offset(self, tp: Any) -> int | None:
        return self._progress.committable(tp)

    def _should_commit(self, tp: Any, offset: int) -> bool:
        return True  # committable() names only offsets that the broker does not have

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        stored: bool = await super()._commit(offsets)
        if stored:
            self._progress.confirm(offsets.items())
        return stored

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Lets the runtime finish and commits what is durable, while the group still takes it."""
        await self.app.hooks.revoking(revoked)
        try:
            await asyncio.wait_for(self.commit(), FINAL_COMMIT_S)
        except TimeoutError:
            log.warning(
                "no commit within %.0f s of a rebalance; the next owner reads those batches again", FINAL_COMMIT_S
            )
        self._progress.forget(self._progress.tracked())
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[Any], generation_id: int = 0) -> None:
        """Starts every partition from what is committed."""
        self._progress.forget(self._progress.tracked())
        self.app.hooks.assigning(assigned)
        await super().on_partitions_assigned(assigned, generation_id)


class Transport(driver.Transport):  # type: ignore[misc]  # Faust is untyped
    """kafka:// with our consumer."""

    Consumer = Consumer


class StreamApp(faust.App):  # type: ignore[misc]  # Faust is untyped
    """A Faust app on the batch transport. streams.app.build sets what stands here; `runtime` is a streams.runtime."""

    progress: Progress
    fetch: FetchTuning
    hooks: Hooks
    runtime: Any

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Faust's data folder is for tables, which no job uses."""
