"""Rows of one topic partition on their way into the archive: collected, converted column by column, flushed as a whole.

It neither publishes nor commits. A record that no column can hold is handed to `reject`; everything else is in a file
when flush() returns, once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from streams.contract.records import NodeFeatures, NodeTelemetry, Record
from streams.contract.topics import Topic
from streams.jobs import archive_recovery as recovery
from streams.jobs.archive_identity import KEYS
from streams.jobs.archive_marks import RecentMarks, SeqMarks
from streams.jobs.base import ConsumerRecord
from streams.sinks import parquet, rows, schemas

CONVERT_RECORDS: Final = 500  # one conversion costs about 1.5 ms whatever its size: not once per fetch
SNAPSHOT_S: Final = 60.0  # marks reach the disk this long after the flush that they hold for
STATE: Final = "_state"
# Records that their node counts, and the dataset that has one row (or one first GPU) for each of them.
COUNTED: Final[dict[type[Record] | None, str]] = {
    NodeTelemetry: schemas.HOST.name,
    NodeFeatures: schemas.FEATURES.name,
}
Reject = Callable[[ConsumerRecord, Exception], None]
log = logging.getLogger(__name__)


class Fenced(RuntimeError):
    """Another worker has taken the partition over; its rows are that worker's to write."""


class PartitionBuffer:
    """One topic partition between an assignment and its revocation."""

    def __init__(self, archive: Path, topic: Topic, partition: int, *, base: int, token: str, reject: Reject) -> None:
        self.topic, self.partition, self.last_offset = topic, partition, base - 1
        self.rows = 0  # converted, not yet written
        self.duplicates = 0  # messages that their sender had sent before
        self._released = base - 1
        self._archive, self._base, self._token, self._reject = archive, base, token, reject
        self._waiting: list[tuple[ConsumerRecord, Record]] = []
        self._tables: dict[tuple[str, int], list[pa.Table]] = {}
        self._places: dict[tuple[str, int], frozenset[recovery.Place]] = {}
        self._marks = SeqMarks()  # of nodes that count their messages
        self._recent = RecentMarks()  # of everything else
        self._pending_snapshot: tuple[float, bytes] | None = None
        self._claim()

    def _claim(self) -> None:
        """Takes the partition over: a former owner that still lives finds out before its next rename."""
        parquet.write_text(self._owner_path, self._token)
        for dataset in schemas.DATASETS:
            if dataset.topic is self.topic:
                parquet.remove_temporaries(self._archive, dataset.name, self.partition)
        if self.topic.record in COUNTED:
            self._recover_counted(COUNTED[self.topic.record])
        elif self.topic.record is not None:
            key = KEYS[self.topic.record]
            for identity in self._archived(key.dataset.name, key.columns):
                self._recent.fresh(identity)

    def _archived(self, dataset: str, columns: Sequence[str], after: int = -1) -> Iterator[tuple[Any, ...]]:
        return recovery.load_marks(
            self._archive, dataset, columns, partition=self.partition, base=self._base, after=after
        )

    @property
    def _owner_path(self) -> Path:
        return self._archive / STATE / f"{self.topic.name}-p{self.partition}.owner"

    @property
    def _marks_path(self) -> Path:
        return self._archive / STATE / f"{self.topic.name}-p{self.partition}.marks.json"

    def _recover_counted(self, dataset: str) -> None:
        after = -1
        try:
            snapshot = SeqMarks.peek(self._marks_path.read_bytes())
            # A snapshot beyond the first record read again may know records whose rows are only half written.
            if snapshot.last_offset < self._base:
                self._marks.restore(snapshot)
                after = snapshot.last_offset
        except FileNotFoundError:
            pass
        except msgspec.MsgspecError as error:
            log.warning("%s is not readable (%s); the newest files are read instead", self._marks_path, error)
        for node, boot_id, seq in self._archived(dataset, ("node", "boot_id", "seq"), after):
            self._marks.fresh(node, boot_id, seq)

    @property
    def held(self) -> bool:
        """Whether offsets wait for a flush."""
        return self.last_offset > self._released

    def released(self) -> None:
        """The offsets up to the last flush are released."""
        self._released = self.last_offset

    def add(self, origin: ConsumerRecord, record: Record) -> None:
        """Takes a decoded record, unless its sender sent it before."""
        if isinstance(record, NodeTelemetry | NodeFeatures):
            fresh = self._marks.fresh(record.node, record.boot_id, record.seq)
        else:
            fresh = self._recent.fresh(KEYS[type(record)].of(record))
        if not fresh:
            self.duplicates += 1
            return
        self._waiting.append((origin, record))
        if len(self._waiting) >= CONVERT_RECORDS:
            self.convert()

    def convert(self) -> None:
        """Turns the waiting records into tables by dataset and hour."""
        waiting, self._waiting = self._waiting, []
        for name, table in self._tables_of(waiting):
            for hour, part in parquet.by_hour(table):
                if (kept := self._unknown(name, hour, part)).num_rows:
                    self._tables.setdefault((name, hour), []).append(kept)
                    self.rows += kept.num_rows

    def _tables_of(self, waiting: Sequence[tuple[ConsumerRecord, Record]]) -> list[tuple[str, pa.Table]]:
        """The tables of these records; one that fits no column is rejected, the others go on without it."""
        if not waiting:
            return []
        origins = [origin for origin, _ in waiting]
        places, sent_ms = [origin.offset for origin in origins], [_sent_ms(origin) for origin in origins]
        batch = rows.Batch(self.partition, places, sent_ms, [record for _, record in waiting])
        try:
            return list(rows.to_tables(type(waiting[0][1]), batch).items())
        except rows.UNSTORABLE as error:
            if len(waiting) == 1:
                self._reject(origins[0], error)
                return []
        middle = len(waiting) // 2
        return self._tables_of(waiting[:middle]) + self._tables_of(waiting[middle:])

    def _unknown(self, dataset: str, hour: int, table: pa.Table) -> pa.Table:
        """The rows that were not archived before the offsets were committed."""
        key = (dataset, hour)
        if key not in self._places:
            self._places[key] = recovery.places(self._archive, dataset, hour, partition=self.partition, base=self._base)
        known = self._places[key]
        if not known:
            return table
        places = zip(*(table[column].to_pylist() for column in recovery.PLACE), strict=True)
        return table.filter(pa.array(np.fromiter((place not in known for place in places), bool, table.num_rows)))

    def flush(self, now_s: float) -> int:
        """Writes everything held and returns the last offset that is durable now.

        Raises:
            OSError: a file could not be written; what is left is tried again by the next flush.
            Fenced: another worker owns the partition.
        """
        self._check_owner()
        self.convert()
        for (dataset, hour), parts in list(self._tables.items()):
            table = pa.concat_tables(parts, promote_options="default")
            parquet.write(
                self._archive, dataset, hour, partition=self.partition, table=table, before_rename=self._check_owner
            )
            # Forgotten one by one: a flush that fails half way must not write the first half again.
            del self._tables[(dataset, hour)]
            self.rows -= table.num_rows
        self._save_marks(now_s)
        return self.last_offset

    def _check_owner(self) -> None:
        try:
            owner = self._owner_path.read_text()
        except FileNotFoundError:
            owner = "nobody"
        if owner != self._token:
            raise Fenced(f"{self.topic.name} partition {self.partition} belongs to another worker now")

    def _save_marks(self, now_s: float) -> None:
        """Keeps a snapshot back for a minute: by then its offsets are committed, and a restart may trust it."""
        if self.topic.record not in COUNTED:
            return
        if self._pending_snapshot is None:
            self._pending_snapshot = now_s, self._marks.snapshot(self.last_offset)
        elif now_s - self._pending_snapshot[0] >= SNAPSHOT_S:
            parquet.write_text(self._marks_path, self._pending_snapshot[1].decode())
            self._pending_snapshot = None


def _sent_ms(record: ConsumerRecord) -> int | None:
    """Kafka writes -1 where a message has no timestamp."""
    return record.timestamp if record.timestamp >= 0 else None
