"""Tells Alertmanager what fires, by its v2 API: everything at each change and again every minute, as Prometheus does.

It is told states, not events: after an outage on either side the next telling is complete. Routing, grouping and
silences of its own are its business; ours hold back what is silenced here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from streams.contract.records import Alert
from streams.sinks import shapes
from streams.sinks.address_guard import DEFAULT_PORTS, Allowed
from streams.sinks.outbox import Outbox
from streams.sinks.silences import Silence
from streams.sinks.webhook import Post

RESEND_S: Final = 60.0
LASTS_S: Final = 4 * RESEND_S  # an alert that is not repeated ends there by itself: we are gone
FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 60.0
AT_ONCE: Final = 64  # alerts in one request
log = logging.getLogger(__name__)


def payload(alerts: Sequence[Alert], now_s: float) -> bytes:
    """The body of POST /api/v2/alerts."""
    return msgspec.json.encode([_entry(alert, now_s) for alert in alerts])


def _entry(alert: Alert, now_s: float) -> dict[str, Any]:
    ends_ns = alert.ts_ns if alert.state == "resolved" else int((now_s + LASTS_S) * 1e9)
    return {
        "labels": shapes.labels_of(alert),
        "annotations": shapes.annotations_of(alert),
        "startsAt": shapes.rfc3339(alert.started_ns or alert.ts_ns),
        "endsAt": shapes.rfc3339(ends_ns),
    }


def endpoint(url: str) -> str:
    """The address of its API, whether the operator gave the server, or the server with a path before it."""
    base = url.rstrip("/")
    return base if base.endswith("/api/v2/alerts") else f"{base}/api/v2/alerts"


def allowed(url: str) -> Allowed:
    """The operator's own setting names this host and port; all others stay refused."""
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    return Allowed(frozenset({parts.hostname or ""}), frozenset({port}))


@dataclass(slots=True)
class Teller:
    """Keeps one Alertmanager informed."""

    url: str
    outbox: Outbox
    post: Post
    silences: Callable[[], Sequence[Silence]]
    wall_s: Callable[[], float]
    told: bool = False  # whether it has what we know
    next_s: float = 0.0
    failures: int = 0

    def changed(self) -> None:
        """Something is new: tell it now, unless it is away."""
        self.told = False

    def step(self) -> float:
        """Tells everything when it is time; returns when to come again."""
        now_s = self.wall_s()
        if now_s < self.next_s and (self.told or self.failures):
            return self.next_s
        live = [one for one in self.silences() if one.live(int(now_s * 1e9))]
        known = [alert for alert in self.outbox.alerts(now_s) if not any(one.matches(alert) for one in live)]
        self.told = True  # what changes while this is on its way asks for another telling
        problem = self._tell(known, now_s)
        if problem is None:
            self.failures, self.next_s = 0, self.wall_s() + RESEND_S
            return self.next_s
        self.told, self.failures = False, self.failures + 1
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 10), LONGEST_PAUSE_S)
        log.warning("alertmanager: %s; again in %.0f s", problem, pause_s)
        self.next_s = self.wall_s() + pause_s
        return self.next_s

    def _tell(self, alerts: Sequence[Alert], now_s: float) -> str | None:
        """The problem, None when all were taken."""
        for start in range(0, len(alerts), AT_ONCE):
            body = payload(alerts[start : start + AT_ONCE], now_s)
            sent = {"content-type": "application/json", "user-agent": "energy-orchestrator"}
            answer = self.post(endpoint(self.url), body, sent, allowed=allowed(self.url))
            if not answer.ok:
                return f"{answer.status or ''} {answer.detail}".strip()
        return None
