"""Whether a worker is alive: its commits move while records wait. A running process proves nothing.

Faust and aiokafka can stop fetching for ever after a rebalance or a lost broker without an error. So the end offsets
are asked through a second client, and a worker without progress says where it stands and exits non-zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streams.contract.kafka import security
from streams.progress import Partition


@dataclass(frozen=True, slots=True)
class Standing:
    """One partition at one look: what is committed, where the reader stands, where the log ends. None = unknown."""

    tp: Partition
    committed: int | None
    position: int | None
    end: int
    idle: bool  # everything handed out is committed

    @property
    def lag(self) -> int:
        """Records waiting. A reader at the end with nothing in hand has none, whatever markers follow its commit.

        With something in hand that waits too, also where nothing was ever committed and all has been read.
        """
        if self.idle and self.position is not None and self.position >= self.end:
            return 0
        reached = self.committed if self.committed is not None else self.position
        return max(0 if self.idle else 1, self.end - (reached or 0))


@dataclass(slots=True)
class _Watch:
    committed: int | None
    still_s: float = 0.0


class Liveness:
    """Counts, per partition, how long its commit has stood still while records waited. Time is given from outside."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._watched: dict[Partition, _Watch] = {}

    def look(self, standings: Iterable[Standing], elapsed_s: float) -> str | None:
        """One look, `elapsed_s` after the one before; returns the reason when a partition has stalled.

        Time in which the broker did not answer must not be counted: leave those looks out.
        """
        seen = {standing.tp: standing for standing in standings}
        for gone in self._watched.keys() - seen.keys():
            del self._watched[gone]
        reasons = []
        for tp, standing in seen.items():
            watch = self._watched.setdefault(tp, _Watch(standing.committed))
            moved = watch.committed != standing.committed
            watch.committed = standing.committed
            watch.still_s = 0.0 if moved or standing.lag == 0 else watch.still_s + elapsed_s
            if watch.still_s >= self._stall_s:
                reasons.append((watch.still_s, standing))
        return _sentence(*max(reasons, key=lambda reason: reason[0])) if reasons else None

    def age_s(self, tp: Partition) -> float:
        """Seconds that this partition's commit has stood still while records waited."""
        watch = self._watched.get(tp)
        return 0.0 if watch is None else watch.still_s


def _sentence(still_s: float, at: Standing) -> str:
    committed = "nothing" if at.committed is None else f"offset {at.committed}"
    return (
        f"no progress for {still_s:.0f} s on {at.tp.topic} partition {at.tp.partition}: committed {committed}, "
        f"reader at {at.position if at.position is not None else 'unknown'}, log ends at {at.end} "
        f"({at.lag} records wait); exiting so that the supervisor starts a fresh worker"
    )


class EndOffsets:
    """Asks the broker for end offsets through a client of its own. Blocking: call it from a thread."""

    def __init__(self, bootstrap: str, client_id: str) -> None:
        from confluent_kafka.admin import AdminClient

        self._admin = AdminClient(
            {"bootstrap.servers": bootstrap, "client.id": client_id, "log_level": 2, **security()}
        )

    def ask(self, partitions: Iterable[Partition], timeout_s: float) -> Mapping[Partition, int] | None:
        """End offsets (after the last committed transaction); None when the broker does not answer in time."""
        from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
        from confluent_kafka.admin import OffsetSpec

        asked = {TopicPartition(*tp): OffsetSpec.latest() for tp in partitions}
        if not asked:
            return {}
        answers = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout_s
        )
        try:
            return {
                Partition(tp.topic, tp.partition): future.result(timeout_s + 1).offset for tp, future in answers.items()
            }
        except (KafkaException, TimeoutError):
            return None
