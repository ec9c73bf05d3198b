"""Fills an online store from the features topic by assign(): no group is joined and nothing is committed."""

from __future__ import annotations

import logging
from typing import Final

from streams.contract import codec
from streams.contract.errors import ContractError
from streams.contract.records import NodeFeatures
from streams.contract.topics import FEATURES
from streams.replay import Replay
from streams.store.online import OnlineStore

log: Final = logging.getLogger(__name__)


def fill(
    store: OnlineStore,
    bootstrap: str,
    *,
    since_ms: int,
    cluster: str | None = None,
    client_id: str = "features-reader",
) -> int:
    """Pushes every features record that was sent since `since_ms` (ms since 1970) and returns how many were read.

    With `cluster` only its records are pushed.

    Raises:
        StreamsError: the topic is missing or the broker does not answer.
    """
    seen = 0
    with Replay(bootstrap, client_id) as replay:
        for partition in range(replay.partitions(FEATURES.name)):
            _, end = replay.bounds(FEATURES.name, partition)
            start = replay.offset_at(FEATURES.name, partition, since_ms)
            for chunk in replay.read(FEATURES.name, partition, start=start, end=end):
                seen += sum(_push(store, record.value, partition, record.offset, cluster) for record in chunk)
    return seen


def _push(store: OnlineStore, value: bytes | None, partition: int, offset: int, cluster: str | None) -> int:
    try:
        record = codec.decode(NodeFeatures, value)
    except ContractError as error:
        # A reader is not the place for dead letters: the jobs send them. One bad record must not hide the others.
        log.warning("%s partition %d offset %d is skipped: %s", FEATURES.name, partition, offset, error)
        return 0
    if cluster is None or record.cluster == cluster:
        store.push(record)
    return 1
