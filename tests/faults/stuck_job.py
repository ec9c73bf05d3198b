"""A job that takes batches and never makes them durable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streams.contract.topics import TELEMETRY, Topic
from streams.jobs.base import ConsumerRecord, JobContext, Outcome


class StuckJob:
    """Holds everything for ever."""

    name = "features"
    topics: tuple[Topic, ...] = (TELEMETRY,)

    def start(self, ctx: JobContext) -> None:
        return None

    def assign(self, partitions: frozenset[int]) -> None:
        return None

    def revoke(self, partitions: frozenset[int]) -> None:
        return None

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        return Outcome.HOLD

    def tick(self) -> Iterable[tuple[str, int, int]]:
        return ()

    def stop(self) -> None:
        return None
