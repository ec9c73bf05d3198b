"""Decoding with the rule in = good + dead letters, exactly: whatever does not decode leaves with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from streams.contract import codec
from streams.contract.dlq import DeadLetter
from streams.contract.errors import ContractError
from streams.contract.records import Record
from streams.contract.topics import Topic
from streams.errors import DeliveryFailed
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


def ours(
    ctx: JobContext, topic: Topic, partition: int, record: ConsumerRecord, record_type: type[T], *, job: str
) -> T | None:
    """One record of this cluster. None for another cluster's on the same topics, which is not ours to act on, and for
    one that does not decode: it goes to the dead-letter queue."""
    try:
        value = codec.decode(record_type, record.value)
    except ContractError as error:
        bury(ctx, topic, partition, record, reason=str(error), job=job)
        return None
    return value if getattr(value, "cluster", ctx.settings.cluster) == ctx.settings.cluster else None


def bury(ctx: JobContext, topic: Topic, partition: int, record: ConsumerRecord, *, reason: str, job: str) -> None:
    """Sends one record to the dead-letter queue, bytes unchanged."""
    dead = DeadLetter(topic.name, partition, record.offset, reason, job, ctx.wall_ns())
    ctx.publisher.dead_letter(dead, record.key, record.value)


def letters_first(ctx: JobContext, *, timeout_s: float) -> None:
    """Waits until the dead letters sent so far are on the broker: before the offsets of the records that they replace
    are released. Raises DeliveryFailed."""
    receipt = ctx.publisher.seal()
    ctx.publisher.flush(timeout_s)
    if receipt.error is not None or not receipt.done:
        raise DeliveryFailed(receipt.error or f"dead letters were not acknowledged within {timeout_s:.0f} s")
