"""What a job is. A job turns batches of one partition into effects; it never joins a group, commits or blocks for long.

All methods are called on one thread, one at a time. A job keeps its state per partition and drops it on revoke.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from streams.contract.layout import Layout
from streams.contract.topics import Topic
from streams.observe.trace import JobTracing
from streams.publisher import Publisher
from streams.settings import WorkerSettings
from streams.state import StateStore


class Outcome(Enum):
    """When a batch may be acknowledged."""

    ACK = "ack"  # as soon as the outputs sent while processing it are on the broker
    HOLD = "hold"  # when tick() says that its offsets are durable elsewhere


class ConsumerRecord(Protocol):
    """One Kafka message as a job sees it (an aiokafka ConsumerRecord, or a test's stand-in)."""

    @property
    def offset(self) -> int: ...

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...

    @property
    def timestamp(self) -> int:
        """Milliseconds."""
        ...


@dataclass(frozen=True, slots=True)
class JobContext:
    """What the runtime lends a job."""

    settings: WorkerSettings
    publisher: Publisher
    state: StateStore
    layout: Layout
    wall_ns: Callable[[], int]
    monotonic: Callable[[], float]
    log: logging.Logger
    tracing: JobTracing | None = None  # None = off


class Job(Protocol):
    """A stream job.

    Topics with the cluster's partition count are assigned together: partition 3 of one comes with partition 3 of
    the others. A topic with a count of its own (the operators' intents) goes to one worker only; a job that needs it
    everywhere reads it itself with streams.replay.
    """

    name: str
    topics: tuple[Topic, ...]

    def start(self, ctx: JobContext) -> None:
        """Called once, before any partition is assigned."""
        ...

    def assign(self, partitions: frozenset[int]) -> None:
        """These partitions are ours now: recover their state. Called before their first batch."""
        ...

    def revoke(self, partitions: frozenset[int]) -> None:
        """These partitions are no longer ours: make durable what can be, drop their state."""
        ...

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        """Consecutive records of one partition. What does not decode goes to `ctx.publisher.dead_letter`."""
        ...

    def tick(self) -> Iterable[tuple[str, int, int]]:
        """Called about every 100 ms; yields (topic, partition, last offset made durable) for held batches."""
        ...

    def stop(self) -> None:
        """Called once at a clean end."""
        ...


@runtime_checkable
class Firing(Protocol):
    """A job that judges rules."""

    def firing(self) -> Mapping[str, int]:
        """How many alerts of each rule in force fire now."""
        ...
