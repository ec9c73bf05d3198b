"""The dead-letter record: original bytes as value and key, everything else in headers, so that nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Headers = list[tuple[str, bytes]]
PREFIX: Final = "dlq."
MAX_ERROR: Final = 1000  # characters of the reason kept in a header


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Where a message came from and why it could not be used. `offset` is -1 when it never was in a topic."""

    topic: str
    partition: int
    offset: int
    error: str
    component: str
    ts_ns: int

    def to_headers(self) -> Headers:
        values = {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "error": self.error[:MAX_ERROR],
            "component": self.component,
            "ts_ns": self.ts_ns,
        }
        return [(PREFIX + name, str(value).encode(errors="replace")) for name, value in values.items()]

    @classmethod
    def from_headers(cls, headers: Sequence[tuple[str, bytes | None]] | None) -> DeadLetter:
        """Reads the headers back; a header that is missing or odd becomes "" or -1, since a DLQ must stay readable."""
        ours = [(name, value) for name, value in headers or [] if name.startswith(PREFIX)]
        found = {name.removeprefix(PREFIX): (value or b"").decode(errors="replace") for name, value in ours}
        return cls(
            topic=found.get("topic", ""),
            partition=_int(found.get("partition")),
            offset=_int(found.get("offset")),
            error=found.get("error", ""),
            component=found.get("component", ""),
            ts_ns=_int(found.get("ts_ns")),
        )


def _int(text: str | None) -> int:
    try:
        return int(text or "-1")
    except ValueError:
        return -1
