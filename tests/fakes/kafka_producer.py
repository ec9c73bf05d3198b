"""A Kafka producer without Kafka, with named faults; and one that keeps its broker in a file, for killed processes.

Both behave as librdkafka does where it matters: delivery reports come only from `poll`, a full queue raises
BufferError, a fatal error is for ever.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException

Delivery = Callable[[Any, Any], None]


class FakeProducer:
    """Named faults: `away` (nothing is delivered), `queue_size`, `fail_next` (codes of coming deliveries),
    `refuse` (raised by produce), `fatal` (everything fails for ever), `shuffle` (reports come newest first)."""

    def __init__(self, *, queue_size: int = 100_000) -> None:
        self.delivered: list[tuple[str, bytes, bytes, list[tuple[str, bytes]]]] = []
        self.queue: deque[tuple[tuple[str, bytes, bytes, list[tuple[str, bytes]]], Delivery]] = deque()
        self.queue_size = queue_size
        self.away = False
        self.shuffle = False
        self.fatal = False
        self.fail_next: deque[int | None] = deque()
        self.refuse: deque[int] = deque()
        self.purged = 0

    def produce(
        self, topic: str, value: bytes, key: bytes, *, headers: list[tuple[str, bytes]], on_delivery: Delivery
    ) -> None:
        if self.fatal:
            raise KafkaException(KafkaError(KafkaError._FATAL, "fenced", True))
        if self.refuse:
            raise KafkaException(KafkaError(self.refuse.popleft()))
        if len(self.queue) >= self.queue_size:
            raise BufferError("Local: Queue full")
        self.queue.append(((topic, key, value, headers), on_delivery))

    def poll(self, timeout: float = 0) -> int:
        if self.away:
            return 0
        due, self.queue = list(self.queue), deque()
        for message, report in reversed(due) if self.shuffle else due:
            code = self.fail_next.popleft() if self.fail_next else None
            if self.fatal:
                report(KafkaError(KafkaError._FATAL, "fenced", True), None)
            elif code is not None:
                report(KafkaError(code), None)
            else:
                self.delivered.append(message)
                report(None, None)
        return len(due)

    def purge(self) -> None:
        self.purged += 1
        self.queue.clear()

    def values(self) -> list[bytes]:
        return [value for _, _, value, _ in self.delivered]


class FileProducer:
    """A broker that is a file: one JSON line per delivered record, written before its report, as a real one would."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._queue: deque[tuple[bytes, Delivery]] = deque()

    def produce(
        self, topic: str, value: bytes, key: bytes, *, headers: list[tuple[str, bytes]], on_delivery: Delivery
    ) -> None:
        line = json.dumps({"topic": topic, "key": key.decode(), "value": value.decode()}).encode() + b"\n"
        self._queue.append((line, on_delivery))

    def poll(self, timeout: float = 0) -> int:
        served = 0
        while self._queue:
            line, report = self._queue.popleft()
            os.write(self._fd, line)
            report(None, None)
            served += 1
        return served

    def purge(self) -> None:
        self._queue.clear()
