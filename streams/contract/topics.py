"""The one table of topics: key, partitions, cleanup, retention, record, writers, readers. All else derives from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from streams.contract import records as r

DAY_MS: Final = 24 * 3600 * 1000
COMPACT_SEGMENT_MS: Final = 10 * 60 * 1000
DEFAULT_PARTITIONS: Final = 24  # divides by 1, 2, 3, 4, 6, 8 and 12 workers


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the contract. `record` is None for the dead-letter queue, which keeps original bytes."""

    name: str
    key: str
    cleanup: Literal["delete", "compact"]
    retention_ms: int | None
    record: type[r.Record] | None
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    purpose: str
    cloud_events: bool
    partitions: int | None = None  # None = the cluster's choice (24; 4 in the demo)

    def config(self) -> dict[str, str]:
        """Broker-side settings that `eo topics` creates and compares."""
        settings: dict[str, str] = {"cleanup.policy": self.cleanup}
        if self.cleanup == "compact":
            # Only closed segments are compacted; at the default size a small topic would grow for weeks.
            settings["segment.ms"] = str(COMPACT_SEGMENT_MS)
        if self.retention_ms is not None:
            settings["retention.ms"] = str(self.retention_ms)
        return settings

    def partition_count(self, default: int) -> int:
        return self.partitions or default


TELEMETRY: Final = Topic(
    "energy.telemetry.node.v1",
    "node",
    "delete",
    2 * DAY_MS,
    r.NodeTelemetry,
    ("node",),
    ("features", "archive", "alerts"),
    "one columnar message per node and second",
    cloud_events=False,
)
FEATURES: Final = Topic(
    "energy.features.gpu.v1",
    "node",
    "delete",
    7 * DAY_MS,
    r.NodeFeatures,
    ("features",),
    ("anomaly", "actuation", "ledger", "archive", "alerts"),
    "each registered feature of each GPU of a node",
    cloud_events=False,
)
ANOMALY: Final = Topic(
    "energy.anomaly.gpu.v1",
    "node",
    "delete",
    30 * DAY_MS,
    r.AnomalyVerdict,
    ("anomaly",),
    ("actuation", "alerts", "archive"),
    "verdicts with evidence; they may freeze or alert, never lower",
    cloud_events=True,
)
DESIRED: Final = Topic(
    "energy.power.desired.v1",
    "node",
    "compact",
    None,
    r.PowerDesired,
    ("actuation",),
    ("node", "ledger", "archive", "alerts"),
    "signed, leased envelopes, transactional per partition",
    cloud_events=True,
)
APPLIED: Final = Topic(
    "energy.power.applied.v1",
    "node",
    "delete",
    90 * DAY_MS,
    r.PowerApplied,
    ("node",),
    ("actuation", "ledger", "alerts", "archive"),
    "what really happened on each GPU",
    cloud_events=True,
)
LEDGER: Final = Topic(
    "energy.ledger.command.v1",
    "node",
    "delete",
    90 * DAY_MS,
    r.LedgerEntry,
    ("ledger",),
    ("archive",),
    "cause, command, acknowledgement and measured effect of each GPU's command",
    cloud_events=True,
)
ALERT: Final = Topic(
    "energy.alert.v1",
    "node or cluster",
    "delete",
    30 * DAY_MS,
    r.Alert,
    ("alerts",),
    ("archive", "deliver"),
    "rules firing and resolved",
    cloud_events=True,
)
INTENT: Final = Topic(
    "energy.operator.intent.v1",
    "cluster:scope#pause or cluster:scope#cap",
    "compact",
    None,
    r.OperatorIntent,
    ("operator",),
    ("actuation", "archive"),
    "a human's pause or cap, signed",
    cloud_events=True,
    partitions=1,
)
STATE: Final = Topic(
    "energy.state.job.v1",
    "cluster/job/partition",
    "compact",
    None,
    r.JobState,
    ("features", "anomaly", "actuation", "ledger", "alerts"),
    ("features", "anomaly", "actuation", "ledger", "alerts"),
    "state of each job and partition with the offset that it is valid at",
    cloud_events=False,
)
DLQ: Final = Topic(
    "energy.dlq.v1",
    "original key",
    "delete",
    14 * DAY_MS,
    None,
    ("features", "anomaly", "actuation", "archive", "ledger", "alerts", "deliver"),
    ("operator",),
    "original bytes of what did not decode; the reason stands in the headers",
    cloud_events=False,
)

TOPICS: Final = (TELEMETRY, FEATURES, ANOMALY, DESIRED, APPLIED, LEDGER, ALERT, INTENT, STATE, DLQ)
BY_NAME: Final = {topic.name: topic for topic in TOPICS}


def topic_of(record: type[r.Record]) -> Topic:
    """The topic that carries a record type; raises KeyError for a part of a record."""
    for topic in TOPICS:
        if topic.record is record:
            return topic
    raise KeyError(f"{record.__name__} is a part of a record, not a record with a topic of its own")
