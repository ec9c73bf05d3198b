"""What the gateway knows of its cluster now, folded from the topics: nodes, engines, latency per pool, recent events.

One lock guards it all: the feed folds in its thread, requests read in theirs. It never writes and never asks Kafka.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import exp
from typing import Any, Final, NamedTuple

from agents.cli.live import RECORDS, WINDOW_S, GroupWindow, LiveState
from models.control.forecast import LoadNow
from streams.contract.codec import decode
from streams.contract.errors import ContractError
from streams.contract.records import Alert, AnomalyVerdict, EngineReading, Histogram, NodeFeatures, PowerApplied, Record
from streams.contract.topics import ALERT, ANOMALY, FEATURES
from streams.store.online import OnlineStore
from streams.store.registry import ttl_s

KEPT_EVENTS: Final = 2000
FORGET_NS: Final = 600 * 10**9  # an engine that is silent for so long has ended or has another name now
FORGET_EVERY: Final = 10_000  # records
LOAD_S: Final = 20.0  # load is the mean of about as long as a long answer takes
METRICS: Final = ("tbt", "ttft", "e2e")
RECORD_OF: Final[dict[str, type[Record]]] = {**RECORDS, ANOMALY.name: AnomalyVerdict, ALERT.name: Alert}


class PoolKey(NamedTuple):
    """Engines whose latencies may be compared, of one group."""

    stack: str
    workload: str
    group: str


@dataclass(slots=True)
class EngineView:
    """The newest that is known of one engine, and its mean load."""

    node: str
    reading: EngineReading
    at_ns: int
    quality: str
    load: LoadNow | None = None


@dataclass(slots=True)
class PoolWindow:
    """Latency histograms of one pool over the last minute."""

    windows: dict[str, GroupWindow] = field(default_factory=lambda: {metric: GroupWindow() for metric in METRICS})

    def samples(self, metric: str, second: int) -> int:
        return sum(sum(counts.values()) for _, counts in self._current(metric, second).seconds)

    def p99_ms(self, metric: str, second: int) -> float | None:
        return self._current(metric, second).p99_ms()

    def _current(self, metric: str, second: int) -> GroupWindow:
        """The window without what is older than a minute before `second`: a silent pool has no p99."""
        window = self.windows[metric]
        while window.seconds and window.seconds[0][0] < second - 2 * WINDOW_S:
            window.seconds.popleft()
        return window


class ClusterState:
    """Everything that answers without asking the archive."""

    def __init__(self, cluster: str, *, wall_ns: Callable[[], int]) -> None:
        self.cluster, self.wall_ns = cluster, wall_ns
        self.lock = threading.Lock()
        self.live = LiveState()
        self.store = OnlineStore(ttl_s())
        self.latest: dict[str, NodeFeatures] = {}
        self.engines: dict[str, EngineView] = {}
        self.pools: dict[PoolKey, PoolWindow] = {}
        self.commands: deque[PowerApplied] = deque(maxlen=KEPT_EVENTS)
        self.anomalies: deque[AnomalyVerdict] = deque(maxlen=KEPT_EVENTS)
        self.alerts: deque[Alert] = deque(maxlen=KEPT_EVENTS)
        self.last_seen_ns: dict[str, int] = {}  # topic -> when this process last took a record of it
        self.counts = {"undecodable": 0, "other_cluster": 0}
        self.version = 0
        self.new: deque[Record] = deque(maxlen=KEPT_EVENTS)  # events not yet pushed to clients

    def fold(self, topic: str, payload: bytes | None) -> None:
        """One message; what does not decode, or is of another cluster, is counted and left out."""
        kind = RECORD_OF.get(topic)
        if kind is None:
            return
        try:
            record = decode(kind, payload)
        except ContractError:
            self.counts["undecodable"] += 1
            return
        if getattr(record, "cluster", None) != self.cluster:
            self.counts["other_cluster"] += 1
            return
        with self.lock:
            self.last_seen_ns[topic] = self.wall_ns()
            self.version += 1
            self._take(record)
            if self.version % FORGET_EVERY == 0:
                self._forget()

    def _forget(self) -> None:
        """Drops engines and pools that have ended, so that renamed engines do not fill the memory."""
        oldest = self.wall_ns() - FORGET_NS
        self.engines = {name: view for name, view in self.engines.items() if view.at_ns >= oldest}
        living = {(view.reading.stack, view.reading.workload) for view in self.engines.values()}
        self.pools = {key: pool for key, pool in self.pools.items() if key[:2] in living}

    def _take(self, record: Record) -> None:
        if isinstance(record, NodeFeatures):
            if not self.store.push(record):
                return
            self.latest[record.node] = record
            self._engines(record)
        self.live.take(record)
        if isinstance(record, PowerApplied):
            self.commands.append(record)
        elif isinstance(record, AnomalyVerdict):
            self.anomalies.append(record)
        elif isinstance(record, Alert):
            self.alerts.append(record)
        else:
            return
        self.new.append(record)

    def _engines(self, record: NodeFeatures) -> None:
        second = record.window_end_ns // 1_000_000_000
        for reading in record.engines:
            known = self.engines.get(reading.engine)
            load = _load(reading, known)
            self.engines[reading.engine] = EngineView(record.node, reading, record.window_end_ns, record.quality, load)
            pool = self.pools.setdefault(PoolKey(reading.stack, reading.workload, self.group_of(reading)), PoolWindow())
            for metric in METRICS:
                counts: Histogram | None = getattr(reading, metric)
                # Another scale is left out, never read as if it were scale 5.
                if counts is not None and counts.index and counts.scale == 5:
                    pool.windows[metric].add(second, dict(zip(counts.index, counts.count, strict=True)))

    def group_of(self, reading: EngineReading) -> str:
        """controlled, hold-out or default: the group of an engine's first GPU."""
        for uuid in reading.gpu_uuid:
            view = self.live.nodes.get(self.store.node_of(uuid) or "")
            if view is not None:
                return view.group.get(uuid, "default")
        return "default"

    def fresh(self, now_ns: int, stale_s: float) -> Iterator[NodeFeatures]:
        """The newest features of each node that still reports."""
        for record in self.latest.values():
            if now_ns - record.window_end_ns <= stale_s * 1e9:
                yield record

    def age_s(self, topic: str, now_ns: int) -> float | None:
        """Seconds since this process took a record of a topic; None = never."""
        seen = self.last_seen_ns.get(topic)
        return None if seen is None else max(0.0, (now_ns - seen) / 1e9)

    def sample_age_s(self, now_ns: int) -> float | None:
        """Age of the newest sample of any node."""
        newest = max((record.window_end_ns for record in self.latest.values()), default=None)
        return None if newest is None else max(0.0, (now_ns - newest) / 1e9)

    @property
    def has_samples(self) -> bool:
        return FEATURES.name in self.last_seen_ns


def _load(reading: EngineReading, known: EngineView | None) -> LoadNow | None:
    """The engine's load, moved towards the newest reading; None where the engine does not say enough."""
    if reading.running is None or reading.waiting_tokens is None or reading.kv_tokens is None:
        return None
    rate, seconds = _prompt_rate(reading, known)
    before = known.load if known is not None else None
    if rate is None:
        rate = before.prompt_tokens_per_s if before is not None else 0.0
    now = LoadNow(reading.running, reading.waiting_tokens, reading.kv_tokens, rate)
    if before is None:
        return now
    if before.prompt_tokens_per_s == 0.0 and rate > 0.0:
        before = LoadNow(before.running, before.waiting_tokens, before.kv_tokens, rate)
    return before.towards(now, 1.0 - exp(-seconds / LOAD_S))


def _prompt_rate(reading: EngineReading, known: EngineView | None) -> tuple[float | None, float]:
    """Prompt tokens a second since the reading before, and the seconds between; None after a reset or without both."""
    if known is None:
        return None, 0.0
    seconds = (reading.ts_ns - known.reading.ts_ns) / 1e9
    new, old = reading.prompt_tokens_total, known.reading.prompt_tokens_total
    if seconds <= 0 or new is None or old is None or new < old:
        return None, max(0.0, seconds)
    return (new - old) / seconds, seconds


def shares(counts: Mapping[str, int]) -> dict[str, Any]:
    """How a total is made up: shares of measured, estimated and simulated parts, and the word for it."""
    total = sum(counts.values())
    if not total:
        return {"quality": None, "shares": {}}
    kinds = {kind: count / total for kind, count in sorted(counts.items()) if count}
    return {"quality": next(iter(kinds)) if len(kinds) == 1 else "mixed", "shares": kinds}
