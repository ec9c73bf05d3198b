"""What waits for each receiver and what became of the rest, as Prometheus metrics, read from the outbox at a scrape.

Counts stand in the outbox, so they go on through restarts. Receivers are the only label: as many as were added.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.sinks.outbox import Outbox

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """One receiver. `oldest_s` = age of its oldest waiting message; None = none waits."""

    receiver: str
    pending: int
    oldest_s: float | None
    delivered: int
    retried: int
    dead: int


def look(path: Path, receivers: Sequence[str], now_s: float) -> list[Standing]:
    """Every receiver as the outbox knows it, by a connection of its own; empty when it cannot be read now."""
    try:
        outbox = Outbox(path)
    except (sqlite3.Error, OSError) as error:
        log.warning("the outbox cannot be counted (%s)", error)
        return []
    try:
        waiting, tally = outbox.backlog(), outbox.tally()
    except sqlite3.Error as error:
        log.warning("the outbox cannot be counted (%s)", error)
        return []
    finally:
        outbox.close()
    found = []
    for name in receivers:
        count, since_s = waiting.get(name, (0, None))
        done = [tally.get((name, what), 0) for what in ("delivered", "retried", "dead")]
        found.append(Standing(name, count, None if since_s is None else max(0.0, now_s - since_s), *done))
    return found


class DeliveryCollector(Collector):
    """`standings` is asked at each scrape; `away` = failed tellings of Alertmanager in a row, None = none is told."""

    def __init__(
        self, standings: Callable[[], Sequence[Standing]], away: Callable[[], int | None] = lambda: None
    ) -> None:
        self._standings, self._away = standings, away

    def collect(self) -> Iterator[Metric]:
        found, at = self._standings(), ("receiver",)
        pending = GaugeMetricFamily("eo_deliver_pending", "messages that wait for the receiver", labels=at)
        oldest = GaugeMetricFamily(
            "eo_deliver_oldest_pending_seconds", "age of the oldest of them; no sample when none waits", labels=at
        )
        delivered = CounterMetricFamily("eo_deliver_delivered", "messages that the receiver took", labels=at)
        retried = CounterMetricFamily("eo_deliver_retried", "tries after the first of a message", labels=at)
        dead = CounterMetricFamily("eo_deliver_dead_letters", "messages given up; replay sends them again", labels=at)
        for one in found:
            pending.add_metric((one.receiver,), one.pending)
            if one.oldest_s is not None:
                oldest.add_metric((one.receiver,), one.oldest_s)
            delivered.add_metric((one.receiver,), one.delivered)
            retried.add_metric((one.receiver,), one.retried)
            dead.add_metric((one.receiver,), one.dead)
        yield from (pending, oldest, delivered, retried, dead)
        failures = GaugeMetricFamily("eo_deliver_alertmanager_failures", "tellings of Alertmanager failed in a row")
        if (count := self._away()) is not None:
            failures.add_metric((), count)
        yield failures
