"""Sends the outbox's messages of one receiver: signed, in order for each alert, again and again over hours.

One step is one try. Clock, chance and the POST are arguments, so that a day of retries runs in a test within a second.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from streams.errors import StreamsError
from streams.sinks import shapes
from streams.sinks.address_guard import Allowed
from streams.sinks.http_post import Answer
from streams.sinks.outbox import Attempt, Delivery, Outbox
from streams.sinks.receivers import Receiver

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 3600.0
GIVE_UP_S: Final = 86_400.0  # after its last try a message is dead: kept, listed, and sent again on demand
GONE: Final = 410  # the receiver's own word that it wants nothing more
BUSY: Final = frozenset({408, 425, 429})
log = logging.getLogger(__name__)


class Post(Protocol):
    """The network."""

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str], *, allowed: Allowed) -> Answer: ...


def signature(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Standard Webhooks: HMAC-SHA256 over id.timestamp.body, base64, with its version."""
    signed = hmac.new(key, f"{message_id}.{timestamp_s}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


def headers(message_id: str, timestamp_s: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers of one try: the id stays, time and signatures are new; every live secret signs."""
    out = {
        "content-type": "application/json",
        "user-agent": "energy-orchestrator",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
    }
    if keys:
        out["webhook-signature"] = " ".join(signature(key, message_id, timestamp_s, body) for key in keys)
    return out


def pause_s(attempts: int, chance: float) -> float:
    """How long to wait after so many failed tries: doubling, at most an hour, between half and the whole of it."""
    longest = min(FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 20), LONGEST_PAUSE_S)
    return longest * (0.5 + 0.5 * chance)


@dataclass(slots=True)
class Courier:
    """One receiver's messenger."""

    receiver: Receiver
    outbox: Outbox
    post: Post
    keys: Callable[[], Sequence[bytes]]
    wall_s: Callable[[], float]
    chance: Callable[[], float]
    failures: int = 0  # of the receiver as a whole, since its last answer
    free_s: float = 0.0  # nothing is tried before: a receiver that is away is asked by one message only

    def step(self) -> float | None:
        """Sends at most one message; returns when to come again (seconds of the wall clock), None = nothing waits."""
        now_s = self.wall_s()
        if now_s < self.free_s:
            return self.free_s
        delivery = self.outbox.next(self.receiver.name, now_s)
        if delivery is None:
            due_s = self.outbox.due_s(self.receiver.name)
            # What is due and not offered stands behind an earlier message of its alert.
            return None if due_s is None else max(due_s, now_s + 1.0)
        self._try(delivery, now_s)
        return self.wall_s()

    def _try(self, delivery: Delivery, now_s: float) -> None:
        answer = self._send(delivery, now_s)
        attempt = Attempt(now_s, answer.status, answer.detail, answer.took_ms)
        if answer.ok:
            self.failures = 0
            self.outbox.record(delivery, attempt, status="delivered", next_s=now_s, ended_s=self.wall_s())
            return
        tries = delivery.attempts + 1
        wait_s = max(pause_s(tries, self.chance()), min(answer.retry_after_s or 0.0, LONGEST_PAUSE_S))
        away = answer.status is None or answer.status >= 500 or answer.status in BUSY
        if away:
            self.failures += 1
            pause = max(pause_s(self.failures, self.chance()), min(answer.retry_after_s or 0.0, LONGEST_PAUSE_S))
            self.free_s = self.wall_s() + pause
            wait_s = pause
        over = answer.status == GONE or now_s + wait_s > delivery.created_s + GIVE_UP_S
        told = answer.status if answer.status is not None else answer.detail
        if over:
            log.error("webhook %s: message %d is dead after %d tries: %s", self.receiver.name, delivery.id, tries, told)
        else:
            log.warning(
                "webhook %s: message %d, try %d: %s; again in %.0f s",
                self.receiver.name,
                delivery.id,
                tries,
                told,
                wait_s,
            )
        self.outbox.record(
            delivery,
            attempt,
            status="dead" if over else "pending",
            next_s=self.wall_s() + wait_s,
            ended_s=self.wall_s() if over else None,
        )

    def _send(self, delivery: Delivery, now_s: float) -> Answer:
        try:
            keys = self.keys()
        except StreamsError as error:
            return Answer(None, str(error), 0.0)
        body = shapes.body(self.receiver.shape, delivery.alerts, self.receiver.name)
        sent = headers(delivery.webhook_id, int(now_s), body, keys)
        return self.post(self.receiver.url, body, sent, allowed=self.receiver.allowed)
