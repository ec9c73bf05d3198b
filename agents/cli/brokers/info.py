"""What is known about a running broker, and broker.json, where `eo broker up` leaves it for every other process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Literal

Kind = Literal["external", "kafka-jars", "container", "mesh"]

LABELS: Final[dict[Kind, str]] = {
    "external": "your own cluster (KAFKA_BOOTSTRAP)",
    "kafka-jars": "Apache Kafka, one KRaft node from Maven jars",
    "container": "Apache Kafka, one KRaft node in a container",
    "mesh": "Kafka-compatible, memory only",
}


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """How to reach a broker and which process it is. `start_mark` tells a process from a later one with its pid."""

    bootstrap: str
    kind: Kind
    label: str
    pid: int | None
    data_dir: str
    started_ns: int
    start_mark: str | None = None
    container: str | None = None  # "engine name" of a broker in a container

    def save(self, path: Path) -> None:
        """Writes broker.json so that a reader sees the old or the new one, never half."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".tmp")
        with fresh.open("w") as out:
            json.dump(asdict(self), out, indent=2)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> BrokerInfo | None:
        """Reads broker.json; None when it is missing or unreadable, since such a file names no running broker."""
        try:
            raw = json.loads(path.read_text())
            return cls(**{field.name: raw[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError):
            return None
