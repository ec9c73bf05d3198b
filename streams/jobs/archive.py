"""The archive job: what the topics say becomes Parquet, and an offset is released only when its rows are on disk.

It listens at the side: it publishes nothing but dead letters and changes nothing. Rows carry their own time, so a
record that comes late lands in the hour that it belongs to.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from streams.contract import topics as t
from streams.contract.codec import decode
from streams.contract.dlq import DeadLetter
from streams.contract.errors import ContractError
from streams.contract.topics import Topic
from streams.errors import StreamsError
from streams.jobs.archive_buffer import Fenced, PartitionBuffer
from streams.jobs.archive_upkeep import Upkeep
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.jobs.decode import letters_first
from streams.transport import FetchTuning

FLUSH_ROWS: Final = 250_000  # a buffer is written before its age when it holds this many rows
MAX_ROWS: Final = 4 * FLUSH_ROWS  # rows held while the disk refuses; then the worker stops, offsets unreleased
RETRY_S: Final = 5.0
LETTERS_S: Final = 10.0
Place = tuple[str, int]  # topic, partition


class ArchiveJob:
    """Kafka -> Parquet. The order of writing is in streams.sinks.parquet, restarts in streams.jobs.archive_recovery."""

    name = "archive"
    topics = (t.TELEMETRY, t.FEATURES, t.ANOMALY, t.DESIRED, t.APPLIED, t.LEDGER, t.ALERT, t.INTENT)
    # Rows may be on disk half a second later; two fetches a second instead of twenty spare job and broker.
    fetch: Final = FetchTuning(max_wait_ms=500, min_bytes=4_000_000)

    def __init__(self) -> None:
        self._buffers: dict[Place, PartitionBuffer] = {}
        self._due_s: dict[Place, float] = {}
        self._released: list[tuple[str, int, int]] = []
        self._token = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._letters = False  # dead letters sent since the last release

    def start(self, ctx: JobContext) -> None:
        """Makes the archive's folder; raises StreamsError when nothing can be written there."""
        self._ctx = ctx
        self._archive = ctx.layout.archive
        try:
            self._archive.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StreamsError(f"the archive {self._archive} cannot be made: {error}; set EO_DATA_DIR") from error
        if not os.access(self._archive, os.W_OK | os.X_OK):
            raise StreamsError(
                f"the archive {self._archive} is not writable for uid {os.getuid()}; change that or set EO_DATA_DIR"
            )
        self._upkeep = Upkeep(self._archive, ctx.wall_ns, ctx.monotonic)

    def assign(self, partitions: frozenset[int]) -> None:
        """Starts anew: what is on disk is looked up when the first record of a partition tells where reading begins."""
        self._buffers.clear()
        self._due_s.clear()
        self._upkeep.partitions = partitions

    def revoke(self, partitions: frozenset[int]) -> None:
        """Writes what is held, so that the next owner finds it; what fails is read again by that owner."""
        for place in list(self._buffers):
            try:
                self._flush(place)
            except Fenced as error:
                self._ctx.log.warning("%s; its rows are left to that worker", error)
        self._buffers.clear()
        self._due_s.clear()
        self._upkeep.release()

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        """Collects the rows of these records; tick() releases them once they are durable."""
        place = (topic.name, partition)
        if place not in self._buffers:
            self._open(topic, partition, records[0].offset)
        buffer = self._buffers[place]
        for record in records:
            self._take(topic, buffer, record)
        buffer.last_offset = records[-1].offset
        if buffer.rows >= FLUSH_ROWS and not self._flush(place) and buffer.rows > MAX_ROWS:
            raise OSError(f"{buffer.rows} rows wait and the disk takes none; free space below {self._archive}")
        return Outcome.HOLD

    def _open(self, topic: Topic, partition: int, base: int) -> None:
        def reject(record: ConsumerRecord, error: Exception) -> None:
            self._dead_letter(topic, partition, record, error)

        place = (topic.name, partition)
        self._buffers[place] = PartitionBuffer(
            self._archive, topic, partition, base=base, token=self._token, reject=reject
        )
        self._due_s[place] = self._ctx.monotonic() + self._ctx.settings.archive_flush_s

    def _take(self, topic: Topic, buffer: PartitionBuffer, record: ConsumerRecord) -> None:
        if record.value is None and topic.cleanup == "compact":
            return  # a tombstone says that there is nothing to say any more
        if topic.record is None:
            raise TypeError(f"{topic.name} carries no record and cannot be archived")
        try:
            buffer.add(record, decode(topic.record, record.value))
        except ContractError as error:
            self._dead_letter(topic, buffer.partition, record, error)

    def _dead_letter(self, topic: Topic, partition: int, record: ConsumerRecord, error: Exception) -> None:
        dead = DeadLetter(topic.name, partition, record.offset, f"{error}", self.name, self._ctx.wall_ns())
        self._ctx.publisher.dead_letter(dead, record.key, record.value)
        self._letters = True

    def tick(self) -> Iterable[tuple[str, int, int]]:
        """Writes at most one partition that is due, so that a beat stays short, and names what is durable."""
        now = self._ctx.monotonic()
        due = [place for place, buffer in self._buffers.items() if buffer.held and self._due_s[place] <= now]
        if due:
            self._flush(min(due, key=self._due_s.__getitem__))
        self._upkeep.beat()
        released, self._released = self._released, []
        return released

    def _flush(self, place: Place) -> bool:
        """Writes one partition; False leaves its rows and offsets as they are.

        Fenced goes up and stops the worker: what it holds belongs to another, and only a new assignment is clean.
        """
        buffer, now = self._buffers[place], self._ctx.monotonic()
        try:
            last = buffer.flush(now)
        except OSError as error:
            self._due_s[place] = now + RETRY_S
            self._ctx.log.error(
                "%s partition %d: %d rows cannot be written below %s (%s); nothing is lost, tried again in %.0f s. "
                "Free space or rights there",
                *(*place, buffer.rows, self._archive, error, RETRY_S),
            )
            return False
        self._send_letters()
        self._due_s[place] = now + self._ctx.settings.archive_flush_s
        buffer.released()
        self._released.append((*place, last))
        return True

    def _send_letters(self) -> None:
        """Dead letters are on the broker before the offsets of the records that they replace are released."""
        if not self._letters:
            return
        letters_first(self._ctx, timeout_s=LETTERS_S)
        self._letters = False

    def stop(self) -> None:
        """Everything was written by revoke(); upkeep in progress is waited for."""
        self._upkeep.close()
