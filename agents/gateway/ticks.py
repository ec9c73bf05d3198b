"""What is pushed to listeners: one tick a second with the totals, and each command, verdict and alert as it comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from agents.gateway.cluster import ClusterState
from agents.gateway.push import Hub
from agents.gateway.views import Views
from streams.contract.records import Alert, AnomalyVerdict, PowerApplied, Record

TICK_S: Final = 1.0


class Ticks:
    """Called by the feed after each of its polls; nothing is drawn while nobody listens."""

    def __init__(self, state: ClusterState, views: Views, hub: Hub, *, monotonic: Callable[[], float]) -> None:
        self._state, self._views, self._hub, self._monotonic = state, views, hub, monotonic
        self._due = monotonic()

    def __call__(self) -> None:
        with self._state.lock:
            new = list(self._state.new)
            self._state.new.clear()
        for record in new:
            self._hub.publish(kind_of(record), told(record))
        now = self._monotonic()
        if self._hub.clients and now >= self._due:
            self._due = now + TICK_S
            picture = self._views.picture()
            self._hub.publish("tick", {"ts_ns": picture.ts_ns, "nodes": len(picture.nodes), **picture.totals})


def kind_of(record: Record) -> str:
    return {PowerApplied: "command", AnomalyVerdict: "anomaly", Alert: "alert"}[type(record)]


def told(record: Record) -> dict[str, Any]:
    """An event's data: a verdict or alert whole; of an acknowledgement its head and counts by status."""
    if not isinstance(record, PowerApplied):
        return msgspec.structs.asdict(record)
    statuses = record.gpu.status
    return {
        "node": record.node,
        "ts_ns": record.ts_ns,
        "event": record.event,
        "epoch": record.epoch,
        "seq": record.seq,
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "strategy": record.strategy,
        "mode": record.mode,
        "latency_ms": record.latency_ms,
        "quality": record.quality,
    }
