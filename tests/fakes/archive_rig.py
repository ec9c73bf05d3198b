"""Runs the archive job without Kafka: topics as lists, commits as the runtime makes them, restarts from the last one.

Named faults: `refused` of the letter box (the broker takes no dead letter), and a job that is dropped without a word,
by starting the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from streams.contract.dlq import DeadLetter
from streams.contract.layout import Layout
from streams.contract.records import Record
from streams.contract.topics import BY_NAME
from streams.jobs.archive import ArchiveJob
from streams.jobs.base import JobContext
from streams.publisher import Publisher
from streams.settings import WorkerSettings
from streams.sinks import archive_files
from tests.fakes.archive import Message, message, topic_name

Place = tuple[str, int]


class LetterBox:
    """The producer behind the publisher: dead letters by (topic, partition, offset)."""

    def __init__(self) -> None:
        self.refused = False
        self.letters: list[tuple[DeadLetter, bytes | None, bytes | None]] = []
        self._reports: list[Any] = []

    def produce(self, topic: str, **message: Any) -> None:
        dead = DeadLetter.from_headers(message["headers"])
        self._reports.append(message["on_delivery"])
        if not self.refused:
            self.letters.append((dead, message["key"], message["value"]))

    def poll(self, timeout: float) -> int:
        return 0

    def flush(self, timeout: float) -> int:
        reports, self._reports = self._reports, []
        for report in reports:
            report("refused by the fake" if self.refused else None, None)
        return 0

    def __len__(self) -> int:
        return len(self._reports)


@dataclass
class Rig:
    """A broker of lists and one archive job at a time."""

    folder: Path
    flush_s: float = 10.0
    now_s: float = 1000.0
    now_ns: int = 1_736_942_400_000_000_000
    log: dict[Place, list[Message]] = field(default_factory=dict)
    committed: dict[Place, int] = field(default_factory=dict)
    box: LetterBox = field(default_factory=LetterBox)
    read_to: dict[Place, int] = field(default_factory=dict)
    job: ArchiveJob = field(default_factory=ArchiveJob)

    @property
    def archive(self) -> Path:
        return Layout(self.folder).archive

    def send(self, records: Sequence[Record], partition: int = 0) -> None:
        """Appends records to their topics."""
        for record in records:
            place = (topic_name(record), partition)
            members = self.log.setdefault(place, [])
            members.append(message(record, len(members)))

    def send_raw(self, topic: str, value: bytes | None, partition: int = 0) -> None:
        members = self.log.setdefault((topic, partition), [])
        members.append(Message(len(members), value, b"k"))

    def start(self) -> None:
        """A new process: nothing is known but what is on disk and what was committed."""
        self.job = ArchiveJob()
        settings = WorkerSettings(
            cluster="test", bootstrap="127.0.0.1:1", data_dir=self.folder, archive_flush_s=self.flush_s
        )
        self.job.start(
            JobContext(
                settings=settings,
                publisher=Publisher("", "test", producer=self.box),
                state=None,  # type: ignore[arg-type]  # the archive keeps no state on Kafka
                layout=Layout(self.folder),
                wall_ns=lambda: self.now_ns,
                monotonic=lambda: self.now_s,
                log=logging.getLogger("tests.archive"),
            )
        )
        self.job._upkeep.next_s = float("inf")  # compaction has tests of its own
        self.job.assign(frozenset(range(8)))
        self.read_to = dict(self.committed)

    def feed(self, batch: int = 500, *, most: int | None = None) -> None:
        """Hands the job everything that it has not read, in batches; `most` stops after that many batches."""
        count = 0
        for place, members in self.log.items():
            while (start := self.read_to.get(place, 0)) < len(members):
                if most is not None and count >= most:
                    return
                part = members[start : start + batch]
                self.job.process(BY_NAME[place[0]], place[1], part)
                self.read_to[place] = start + len(part)
                count += 1

    def tick(self) -> None:
        """One beat: what the job names as durable is committed."""
        for topic, partition, offset in self.job.tick():
            self.committed[(topic, partition)] = offset + 1

    def settle(self) -> None:
        """Lets the flush time pass and beats until nothing is due."""
        self.now_s += self.flush_s + 1
        for _ in range(len(self.log) + 1):
            self.tick()

    def run(self, batch: int = 500) -> None:
        self.start()
        self.feed(batch)
        self.settle()

    def stop(self) -> None:
        """A clean end."""
        self.job.revoke(frozenset(range(8)))
        self.tick()
        self.job.stop()

    def rows(self, dataset: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """Rows of a dataset as any reader finds them by walking the folder."""
        return rows_of(self.archive, dataset, columns)


def rows_of(archive: Path, dataset: str, columns: str = "*") -> list[tuple[Any, ...]]:
    files = [str(path) for name, path in archive_files.each(archive) if name == dataset]
    if not files:
        return []
    with duckdb.connect() as connection:
        sql = f"SELECT {columns} FROM read_parquet({files}, union_by_name = true, hive_partitioning = false)"
        return connection.execute(sql).fetchall()
