"""Server-sent events: one hub, a bounded queue per client, a short memory for clients that come back.

A slow client loses its oldest events and is told how many; it never slows the others or the feed.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

QUEUE: Final = 256
REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One event with its number; `data` is JSON."""

    number: int
    kind: str
    data: str


@dataclass(slots=True)
class Client:
    """One listener: its queue, what it missed and a bell that the event loop waits on."""

    loop: asyncio.AbstractEventLoop
    queue: deque[Event] = field(default_factory=deque)
    dropped: int = 0
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, event: Event) -> None:
        if len(self.queue) >= QUEUE:
            self.queue.popleft()
            self.dropped += 1
        self.queue.append(event)


class Hub:
    """Events go in from the feed's thread and out to clients in the event loop."""

    def __init__(self, run: str, *, most_clients: int) -> None:
        self.run, self.most_clients = run, most_clients
        self._lock = threading.Lock()
        self._clients: list[Client] = []
        self._memory: deque[Event] = deque(maxlen=REMEMBERED)
        self._number = 0

    @property
    def clients(self) -> int:
        return len(self._clients)

    def publish(self, kind: str, value: Any) -> None:
        """From any thread; never waits for a client."""
        with self._lock:
            self._number += 1
            event = Event(self._number, kind, msgspec.json.encode(value).decode())
            self._memory.append(event)
            for client in self._clients:
                client.put(event)
            bells = [(client.loop, client.bell) for client in self._clients]
        for loop, bell in bells:
            if not loop.is_closed():
                loop.call_soon_threadsafe(bell.set)

    def join(self, loop: asyncio.AbstractEventLoop, last_id: str | None) -> Client | None:
        """A new client, None when there are too many; one that comes back gets what is remembered since its last."""
        with self._lock:
            if len(self._clients) >= self.most_clients:
                return None
            client = Client(loop)
            if last_id is not None:
                self._resume(client, last_id)
            self._clients.append(client)
            return client

    def _resume(self, client: Client, last_id: str) -> None:
        run, _, text = last_id.rpartition("-")
        last = int(text) if run == self.run and text.isdecimal() and len(text) < 16 else None
        oldest = self._memory[0].number if self._memory else self._number + 1
        if last is None or last > self._number:
            client.dropped = -1  # another run: how many were missed cannot be known
            return
        client.dropped = max(0, oldest - last - 1)
        for event in self._memory:
            if event.number > last:
                client.put(event)

    def leave(self, client: Client) -> None:
        with self._lock:
            if client in self._clients:
                self._clients.remove(client)

    def take(self, client: Client) -> tuple[int, list[Event]]:
        """What waits for a client, and how many were lost before it (-1 = unknown)."""
        with self._lock:
            client.bell.clear()
            events, dropped = list(client.queue), client.dropped
            client.queue.clear()
            client.dropped = 0
            return dropped, events

    def id_of(self, event: Event) -> str:
        return f"{self.run}-{event.number}"
