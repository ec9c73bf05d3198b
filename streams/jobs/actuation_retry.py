"""Patience with a broker that has just made a topic or moved a leader: the same question again, for a bounded time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from confluent_kafka import KafkaException

log = logging.getLogger(__name__)
PAUSE_S: Final = 0.2
# The client does not call these retriable in an answer about offsets, yet all of them pass by themselves.
PASSING: Final = frozenset(
    {"NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART", "REPLICA_NOT_AVAILABLE", "_TRANSPORT"}
)
T = TypeVar("T")


def patiently(ask: Callable[[], T], *, timeout_s: float) -> T:
    """The answer to `ask`, which is repeated while its error is one that passes. Blocks; raises its last error."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except KafkaException as error:
            cause = error.args[0]
            if not (cause.retriable() or cause.name() in PASSING) or time.monotonic() > deadline:
                raise
            log.info("asking again: %s", cause)
            time.sleep(PAUSE_S)
