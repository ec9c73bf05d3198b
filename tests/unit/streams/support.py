"""Stand-ins for a job's surroundings: a publisher that remembers, a state store and a partition in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from streams.contract.dlq import DeadLetter
from streams.contract.layout import Layout
from streams.contract.records import JobState
from streams.jobs.base import JobContext
from streams.publisher import Receipt
from streams.settings import WorkerSettings


@dataclass(frozen=True)
class Record:
    """A message as a job sees it."""

    offset: int
    value: bytes | None
    key: bytes | None = b"key"
    timestamp: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = 0


@dataclass
class MemoryPublisher:
    """Named faults: `away` = nothing is ever acknowledged; `refuse` = the next receipt carries this error."""

    sent: list[tuple[str, bytes | None, bytes | None]] = field(default_factory=list)
    dead: list[tuple[DeadLetter, bytes | None, bytes | None]] = field(default_factory=list)
    away: bool = False
    refuse: str | None = None
    _open: Receipt = field(default_factory=Receipt)
    _waiting: list[Receipt] = field(default_factory=list)

    def send_raw(self, topic: str, key: bytes | None, value: bytes | None, headers: object = None) -> None:
        self.sent.append((topic, key, value))
        self._open.expect()
        self._waiting.append(self._open)

    def dead_letter(self, dead: DeadLetter, key: bytes | None, value: bytes | None) -> None:
        self.dead.append((dead, key, value))

    def seal(self) -> Receipt:
        receipt, self._open = self._open, Receipt()
        receipt.sealed = True
        return receipt

    def poll(self) -> None:
        if not self.away:
            error, self.refuse = self.refuse, None
            for receipt in self._waiting:
                receipt.delivered(error, None)
            self._waiting.clear()

    def flush(self, timeout_s: float) -> int:
        self.poll()
        return self.outstanding

    @property
    def outstanding(self) -> int:
        return len(self._waiting)

    @property
    def dead_letters(self) -> int:
        return len(self.dead)


@dataclass
class MemoryState:
    """Keeps the newest snapshot of each partition; `ready` says whether one is due."""

    ready: bool = False
    saved: dict[tuple[str, int], JobState] = field(default_factory=dict)

    def due(self, job: str, partition: int) -> bool:
        return self.ready

    def save(self, job: str, partition: int, data: object, offsets: dict[str, int], version: int = 1) -> None:
        self.saved[job, partition] = JobState(
            job=job,
            partition=partition,
            ts_ns=0,
            offsets=dict(offsets),
            data=msgspec.Raw(msgspec.json.encode(data)),
            data_version=version,
        )

    def load(self, job: str, partition: int) -> JobState | None:
        return self.saved.get((job, partition))


class MemoryReplay:
    """streams.replay.Replay over a list of records; `reads` remembers what was asked for."""

    def __init__(self, log: Sequence[Record], *, low: int = 0) -> None:
        self.log, self.low = log, low
        self.reads: list[tuple[int, int]] = []

    def __call__(self, bootstrap: str, client_id: str) -> MemoryReplay:
        return self

    def __enter__(self) -> MemoryReplay:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return self.low, len(self.log)

    def offset_at(self, topic: str, partition: int, ts_ms: int) -> int:
        return next((one.offset for one in self.log if one.timestamp >= ts_ms), len(self.log))

    def read(self, topic: str, partition: int, *, start: int, end: int) -> Iterator[list[Record]]:
        self.reads.append((start, end))
        for at in range(start, end, 7):
            yield list(self.log[at : min(at + 7, end)])


def context(
    folder: Path, *, publisher: Any = None, state: Any = None, now_ns: int = 123, **settings: Any
) -> JobContext:
    """A job's context in memory."""
    return JobContext(
        settings=WorkerSettings(bootstrap="nowhere:1", data_dir=folder, **settings),
        publisher=publisher if publisher is not None else MemoryPublisher(),
        state=state if state is not None else MemoryState(),
        layout=Layout(folder),
        wall_ns=lambda: now_ns,
        monotonic=lambda: 0.0,
        log=logging.getLogger("test"),
    )
