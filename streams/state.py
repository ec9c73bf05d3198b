"""Snapshots of job state on the compacted topic energy.state.job.v1, keyed cluster/job/partition.

Two clusters may share a broker: one that took the other's snapshot for its own would count foreign GPUs as its fleet.

A snapshot is a shortcut for recovery, never the truth: a job must be able to go on without one. It is sent through the
job's publisher, so it is on the broker before the batch that it covers is acknowledged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from streams.contract import codec
from streams.contract.errors import ContractError
from streams.contract.kafka import partition_of
from streams.contract.records import JobState
from streams.contract.topics import STATE
from streams.publisher import Publisher
from streams.replay import Replay

FIRST_LOOK: Final = 256  # records from the end that are looked at first; the newest snapshot of a key is near the end
log = logging.getLogger(__name__)


class StateStore:
    """Saves and loads the state of one cluster's job and its partitions."""

    def __init__(
        self,
        bootstrap: str,
        publisher: Publisher,
        *,
        cluster: str,
        client_id: str,
        interval_s: float = 30.0,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bootstrap, self._cluster = bootstrap, cluster
        self._publisher = publisher
        self._client_id = client_id
        self._interval_s = interval_s
        self._wall_ns = wall_ns
        self._monotonic = monotonic
        self._saved_s: dict[tuple[str, int], float] = {}

    def due(self, job: str, partition: int) -> bool:
        """Whether the least time between two snapshots of this partition has passed."""
        last = self._saved_s.setdefault((job, partition), self._monotonic())
        return self._monotonic() - last >= self._interval_s

    def save(self, job: str, partition: int, data: object, offsets: Mapping[str, int], version: int = 1) -> None:
        """Publishes a snapshot: `offsets` = next offset to read per topic, `version` = of the job's own data."""
        state = JobState(
            job=job,
            partition=partition,
            ts_ns=self._wall_ns(),
            offsets=dict(offsets),
            data=msgspec.Raw(msgspec.json.encode(data)),
            data_version=version,
        )
        self._publisher.send(state, self._key(job, partition), source=job)
        self._saved_s[job, partition] = self._monotonic()

    def load(self, job: str, partition: int) -> JobState | None:
        """The newest readable snapshot of a partition, or None. Searches backwards from the end of the topic."""
        key = self._key(job, partition).encode()
        with Replay(self._bootstrap, f"{self._client_id}-state") as replay:
            home = partition_of(key, replay.partitions(STATE.name))
            low, end = replay.bounds(STATE.name, home)
            width = FIRST_LOOK
            while end > low:
                start = max(low, end - width)
                found = _newest(replay, home, key, start=start, end=end)
                if found is not None:
                    return found
                end, width = start, width * 8
        return None

    def _key(self, job: str, partition: int) -> str:
        return f"{self._cluster}/{job}/{partition}"


def _newest(replay: Replay, home: int, key: bytes, *, start: int, end: int) -> JobState | None:
    newest: JobState | None = None
    for chunk in replay.read(STATE.name, home, start=start, end=end):
        for record in chunk:
            if record.key != key or record.value is None:
                continue
            try:
                newest = codec.decode(JobState, record.value)
            except ContractError as error:
                log.warning("snapshot %s at offset %d is skipped: %s", key.decode(), record.offset, error)
    return newest
