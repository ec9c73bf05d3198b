"""The state of a running cluster as the topics tell it, for `eo demo`, `eo top` and `eo status`. It never writes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from streams.contract import histogram
from streams.contract.codec import decode
from streams.contract.errors import ContractError
from streams.contract.kafka import assigned_consumer_config
from streams.contract.records import Alert, Histogram, NodeFeatures, PowerApplied, PowerDesired, Record
from streams.contract.topics import ALERT, APPLIED, DESIRED, FEATURES, Topic
from streams.contract.training import TRAINING

if TYPE_CHECKING:
    from confluent_kafka import Message, TopicPartition

WINDOW_S: Final = 60
STALE_NS: Final = 30 * 1_000_000_000  # a node that is silent for longer has no current number
BATCH: Final = 500
KNOWN_ALERTS: Final = 10_000  # identities kept, so that an alert that is told again is not counted again
Group = str  # "controlled", "hold-out" or "default"
RECORDS: Final[dict[str, type[Record]]] = {
    FEATURES.name: NodeFeatures,
    DESIRED.name: PowerDesired,
    APPLIED.name: PowerApplied,
    ALERT.name: Alert,
}


@dataclass(slots=True)
class NodeView:
    """The newest that is known of one node."""

    node: str
    window_end_ns: int = 0
    quality: str = "measured"
    power_w: dict[str, float | None] = field(default_factory=dict)
    limit_w: dict[str, float | None] = field(default_factory=dict)
    lock_mhz: dict[str, int | None] = field(default_factory=dict)
    previous_limit_w: dict[str, float | None] = field(default_factory=dict)
    group: dict[str, Group] = field(default_factory=dict)
    training: frozenset[str] = frozenset()  # GPUs of training jobs: they draw what no server does
    mode: str = "observe"
    strategy: str = "-"
    reason: str = "no envelope yet"
    lease_end_ns: int = 0
    last_event: str = "-"
    last_status: str = "-"

    def capped(self, uuid: str) -> bool:
        """Whether the last acknowledgement left this GPU under a limit or lock of ours."""
        limit, previous = self.limit_w.get(uuid), self.previous_limit_w.get(uuid)
        lowered = limit is not None and previous is not None and limit < previous
        return lowered or self.lock_mhz.get(uuid) is not None


@dataclass(slots=True)
class GroupWindow:
    """Latency counts of one group over the last minute, second by second."""

    seconds: deque[tuple[int, dict[int, int]]] = field(default_factory=deque)

    def add(self, second: int, counts: dict[int, int]) -> None:
        if self.seconds and self.seconds[-1][0] == second:
            into = self.seconds[-1][1]
            for index, count in counts.items():
                into[index] = into.get(index, 0) + count
        else:
            self.seconds.append((second, dict(counts)))
        while self.seconds and self.seconds[0][0] <= second - WINDOW_S:
            self.seconds.popleft()

    def p99_ms(self) -> float | None:
        pooled: dict[int, int] = {}
        for _, counts in self.seconds:
            for index, count in counts.items():
                pooled[index] = pooled.get(index, 0) + count
        return histogram.quantile(pooled, 0.99)


@dataclass(slots=True)
class LiveState:
    """Folds features, envelopes and acknowledgements of one cluster; every figure names what it was made from."""

    cluster: str | None = None  # records of others are counted and left out; None = whoever calls take() has chosen
    nodes: dict[str, NodeView] = field(default_factory=dict)
    tbt: dict[Group, GroupWindow] = field(default_factory=dict)
    ttft: dict[Group, GroupWindow] = field(default_factory=dict)
    loop_ms: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    counts: dict[str, int] = field(default_factory=dict)
    firing: dict[str, Alert] = field(default_factory=dict)
    _alerts: dict[str, None] = field(default_factory=dict)  # every identity, the oldest first

    def fold(self, topic: str, payload: bytes | None) -> None:
        """One message of any of the topics; what does not decode is counted as undecodable."""
        record = RECORDS.get(topic)
        if record is None:
            return
        try:
            found = decode(record, payload)
        except ContractError:
            self._count("undecodable")
            return
        if self.cluster is not None and getattr(found, "cluster", None) != self.cluster:
            self._count("other_cluster")
            return
        self.take(found)

    def take(self, record: Record) -> None:
        """One record that was decoded already; of other kinds nothing is kept."""
        if isinstance(record, NodeFeatures):
            self._features(record)
        elif isinstance(record, PowerDesired):
            self._desired(record)
        elif isinstance(record, PowerApplied):
            self._applied(record)
        elif isinstance(record, Alert):
            self._alert(record)

    def _alert(self, record: Alert) -> None:
        """Firing until it is resolved; the end of one whose beginning was not seen counts as one alert too."""
        if record.alert_id not in self._alerts:
            self._alerts[record.alert_id] = None
            self._count("alerts")
            if record.state == "firing":
                self.firing[record.alert_id] = record
        if record.state == "resolved":
            self.firing.pop(record.alert_id, None)
        if len(self._alerts) > KNOWN_ALERTS:
            del self._alerts[next(iter(self._alerts))]

    def _count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    def view(self, node: str) -> NodeView:
        return self.nodes.setdefault(node, NodeView(node))

    def _features(self, record: NodeFeatures) -> None:
        view = self.view(record.node)
        view.window_end_ns, view.quality = record.window_end_ns, record.quality
        view.power_w = dict(zip(record.uuid, record.features.get("power_w_last", ()), strict=False))
        second = record.window_end_ns // 1_000_000_000
        view.training = frozenset(u for e in record.engines if e.kind == TRAINING for u in e.gpu_uuid)
        for engine in record.engines:
            if engine.kind == TRAINING:
                continue  # its steps are no tokens
            group = view.group.get(engine.gpu_uuid[0], "default") if engine.gpu_uuid else "default"
            for windows, counts in ((self.tbt, engine.tbt), (self.ttft, engine.ttft)):
                windows.setdefault(group, GroupWindow()).add(second, _pairs(counts))
        self._count("features", len(record.uuid))

    def _desired(self, record: PowerDesired) -> None:
        view = self.view(record.node)
        view.mode, view.strategy, view.reason = record.mode, record.strategy, record.reason
        view.lease_end_ns = record.issued_at_ns + record.ttl_ms * 1_000_000
        columns = record.gpu
        for i, uuid in enumerate(columns.uuid):
            granted = columns.max_sm_mhz[i] is not None or columns.max_power_w[i] is not None
            active = granted and record.mode in {"canary", "on"}
            view.group[uuid] = "hold-out" if columns.holdout[i] else "controlled" if active else "default"
        self._count("envelopes")

    def _applied(self, record: PowerApplied) -> None:
        view = self.view(record.node)
        columns = record.gpu
        for i, uuid in enumerate(columns.uuid):
            view.limit_w[uuid] = columns.effective_limit_w[i]
            view.lock_mhz[uuid] = columns.effective_sm_mhz[i]
            view.previous_limit_w[uuid] = columns.previous_limit_w[i]
            self._count(columns.status[i])
        view.last_event = record.event
        view.last_status = ",".join(sorted(set(columns.status)))
        if record.event == "command" and record.sample_ts_ns is not None and "applied" in columns.status:
            self.loop_ms.append((record.ts_ns - record.sample_ts_ns) / 1e6)

    def heard(self, now_ns: int) -> int:
        """Nodes whose newest sample is no older than STALE_NS."""
        return sum(view.window_end_ns >= now_ns - STALE_NS for view in self.nodes.values())

    def mean_power_w(self, group: Group, now_ns: int | None = None) -> float | None:
        """Mean watts per GPU of one group, from the newest sample of each node; with `now_ns` old ones do not count.

        GPUs of training jobs are in no group's mean: they are their own reference.
        """
        values = [
            watts
            for view in self.nodes.values()
            if now_ns is None or view.window_end_ns >= now_ns - STALE_NS
            for uuid, watts in view.power_w.items()
            if watts is not None and view.group.get(uuid, "default") == group and uuid not in view.training
        ]
        return sum(values) / len(values) if values else None

    def gpus(self, group: Group) -> int:
        return sum(view.group.get(uuid, "default") == group for view in self.nodes.values() for uuid in view.power_w)

    def caps_in_force(self) -> int:
        return sum(view.capped(uuid) for view in self.nodes.values() for uuid in view.limit_w)

    def lag_s(self, now_ns: int) -> float | None:
        """Age of the newest feature of the node that is furthest behind."""
        ends = [view.window_end_ns for view in self.nodes.values() if view.window_end_ns]
        return max(0.0, (now_ns - min(ends)) / 1e9) if ends else None

    def loop_quantile_ms(self, q: float) -> float | None:
        ordered = sorted(self.loop_ms)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def _pairs(counts: Histogram | None) -> dict[int, int]:
    return dict(zip(counts.index, counts.count, strict=True)) if counts is not None else {}


class Folding(Protocol):
    """What takes messages in: LiveState, or a state that keeps more."""

    def fold(self, topic: str, payload: bytes | None) -> None: ...


class LiveReader:
    """Feeds a state from the broker by assign(), without a group. `close()` when done.

    `more` names further topics, each with the seconds of history that are wanted of it.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        history_s: float,
        more: Mapping[Topic, float] = MappingProxyType({}),
        client_id: str = "eo-live",
        wait_ms: int = 50,
    ) -> None:
        from confluent_kafka import Consumer

        # Quiet: a broker that goes away at the end of a demo is no news on the screen.
        config = assigned_consumer_config(bootstrap, client_id) | {"log_level": 0, "fetch.wait.max.ms": wait_ms}
        self._consumer = Consumer(config)
        self._history = {topic.name: history_s for topic in (FEATURES, DESIRED, APPLIED)}
        self._history |= {topic.name: seconds for topic, seconds in more.items()}
        self._consumer.assign(self._places())

    def _places(self) -> list[TopicPartition]:
        """Where to begin: the end of each partition, or the first message of the topic's last seconds."""
        from confluent_kafka import OFFSET_END, TopicPartition

        metadata = self._consumer.list_topics(timeout=10)
        self.missing = tuple(name for name in self._history if name not in metadata.topics)
        places, asked = [], []
        for name, seconds in self._history.items():
            for partition in metadata.topics[name].partitions if name in metadata.topics else ():
                if seconds > 0:
                    asked.append(TopicPartition(name, partition, int((time.time() - seconds) * 1000)))
                else:
                    places.append(TopicPartition(name, partition, OFFSET_END))
        return places + (list(self._consumer.offsets_for_times(asked, timeout=10)) if asked else [])

    def poll(self, state: Folding, timeout_s: float, most: int = BATCH) -> int:
        """Folds what has arrived; returns the number of messages."""
        messages: list[Message] = self._consumer.consume(most, timeout_s)
        for message in messages:
            if message.error() is None:
                state.fold(str(message.topic()), message.value())
        return len(messages)

    def catch_up(self, state: Folding, *, timeout_s: float = 5.0) -> None:
        """Reads the history that was asked for; live messages go on arriving, so a short batch is taken for its end."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if 0 < self.poll(state, min(1.0, left)) < BATCH:
                return

    def close(self) -> None:
        self._consumer.close()
