"""Decoding with the rule in = good + dead letters, exactly: whatever does not decode leaves with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from streams.contract import codec
from streams.contract.dlq import DeadLetter
from streams.contract.errors import ContractError
from streams.contract.records import Record
from streams.contract.topics import Topic
from streams.jobs.base import ConsumerRecord, JobContext

T = TypeVar("T", bound=Record)


def good(
    ctx: JobContext, topic: Topic, partition: int, records: Sequence[ConsumerRecord], record_type: type[T], *, job: str
) -> Iterator[tuple[ConsumerRecord, T]]:
    """The records that decode, in order; the others go to the dead-letter queue. A tombstone is neither: it is skipped
    on compacted topics, where it means that its key is gone."""
    for record in records:
        if record.value is None and topic.cleanup == "compact":
            continue
        try:
            value = codec.decode(record_type, record.value)
        except ContractError as error:
            bury(ctx, topic, partition, record, reason=str(error), job=job)
            continue
        yield record, value


def bury(ctx: JobContext, topic: Topic, partition: int, record: ConsumerRecord, *, reason: str, job: str) -> None:
    """Sends one record to the dead-letter queue, bytes unchanged."""
    dead = DeadLetter(topic.name, partition, record.offset, reason, job, ctx.wall_ns())
    ctx.publisher.dead_letter(dead, record.key, record.value)
