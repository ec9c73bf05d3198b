"""The deliver job: alerts in, webhooks and Alertmanager out. It decides nothing about alerts.

A batch is acknowledged when its messages are on disk (streams.sinks.outbox); sending happens in a thread per receiver,
so that one that is slow or away holds up neither the others nor the stream.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from streams.contract.records import Alert
from streams.contract.topics import ALERT, Topic
from streams.errors import StreamsError
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.jobs.decode import good
from streams.sinks import http_post, private_file
from streams.sinks.alertmanager import Teller
from streams.sinks.delivery_metrics import DeliveryCollector, Standing, look
from streams.sinks.outbox import Outbox
from streams.sinks.receivers import Receiver, Receivers
from streams.sinks.silences import Silence, Silences
from streams.sinks.webhook import Courier, Post
from streams.transport import FetchTuning

NAME: Final = "deliver"
OUTBOX: Final = "outbox.sqlite"
LOOK_S: Final = 1.0
PRUNE_S: Final = 600.0
IDLE_S: Final = 5.0  # the longest sleep of a sender: files may have changed
AFTER_ERROR_S: Final = 5.0
END_S: Final = 6.0  # a request that is on its way ends by then
log = logging.getLogger(__name__)


class Sender:
    """A thread that calls `step` whenever it is due or woken. Whatever goes wrong in a step is said and tried again."""

    def __init__(self, name: str, make: Callable[[Outbox], Callable[[], float | None]], path: Path) -> None:
        self.name, self._make, self._path = name, make, path
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"deliver-{name}")
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def end(self) -> None:
        """Asks it to end; `join` waits."""
        self._end.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        outbox: Outbox | None = None
        step: Callable[[], float | None] | None = None
        while not self._end.is_set():
            self._wake.clear()
            try:
                outbox = outbox or Outbox(self._path)
                step = step or self._make(outbox)
                due_s = step()
                wait_s = IDLE_S if due_s is None else min(max(due_s - time.time(), 0.0), IDLE_S)
            except Exception:  # one bad message, a busy file or a full disk must not end all telling
                log.exception("sending to %s failed; again in %.0f s", self.name, AFTER_ERROR_S)
                wait_s = AFTER_ERROR_S
            self._wake.wait(wait_s)
        if outbox is not None:
            outbox.close()


class DeliverJob:
    """Implements streams.jobs.base.Job."""

    name = NAME
    topics: tuple[Topic, ...] = (ALERT,)
    fetch: Final = FetchTuning(max_batch=500, max_wait_ms=500, min_bytes=1_000_000)

    def __init__(self, post: Post = http_post.post) -> None:
        self._post = post

    def start(self, ctx: JobContext) -> None:
        folder = ctx.layout.deliver
        self._ctx, self._path = ctx, folder / OUTBOX
        self._receivers = Receivers(ctx.settings.webhook_file or folder / "webhooks.json")
        self._silences = Silences(folder / "silences.json")
        self._outbox = Outbox(self._path)
        self._senders: dict[str, tuple[Receiver, Sender]] = {}
        self._known: list[Receiver] = []
        self._muted: list[Silence] = []
        self._files: tuple[int, int] = (-1, -1)
        self._looked_s = self._pruned_s = ctx.monotonic()
        self._teller: Teller | None = None
        self._teller_thread: Sender | None = None
        self._reload()
        if ctx.settings.alertmanager_url is not None:
            self._teller_thread = Sender("alertmanager", self._make_teller, self._path)

    def _make_teller(self, outbox: Outbox) -> Callable[[], float | None]:
        url = self._ctx.settings.alertmanager_url or ""
        self._teller = Teller(url, outbox, self._post, lambda: self._muted, time.time)
        return self._teller.step

    def collectors(self) -> tuple[DeliveryCollector, ...]:
        """What this job adds to its worker's metrics."""

        def standings() -> list[Standing]:
            return look(self._path, [receiver.name for receiver in self._known], self._ctx.wall_ns() / 1e9)

        return (DeliveryCollector(standings, lambda: None if self._teller is None else self._teller.failures),)

    # --- files ---

    def _reload(self) -> None:
        """Takes up changed receivers and silences; a damaged file leaves what was known in force, and says so."""
        files = (private_file.changed_ns(self._receivers.path), private_file.changed_ns(self._silences.path))
        if files == self._files:
            return
        self._files = files
        try:
            known, muted = self._receivers.all(), self._silences.all()
        except StreamsError as error:
            self._ctx.log.error("%s; going on with what was known before", error)
            return
        self._known, self._muted = known, muted
        self._match_senders()
        self._wake()

    def _match_senders(self) -> None:
        wanted = {receiver.name: receiver for receiver in self._known}
        for name, (receiver, sender) in list(self._senders.items()):
            if wanted.get(name) != receiver:
                sender.end()
                sender.join(END_S)
                del self._senders[name]
        if self._receivers.path.exists():  # a file that is away for a moment removes nobody
            self._withdraw(wanted)
        for name, receiver in wanted.items():
            if name not in self._senders:
                self._ctx.log.info("webhook %s: %s, shape %s", name, receiver.shown, receiver.shape)
                self._senders[name] = (receiver, Sender(name, partial(self._make_courier, receiver), self._path))

    def _withdraw(self, wanted: Mapping[str, Receiver]) -> None:
        """What waits for receivers that are gone; one of the same name and another birth is another receiver."""
        now_s = self._ctx.wall_ns() / 1e9
        for name, (_, since_s) in self._outbox.backlog().items():
            born_s = wanted[name].created_ns / 1e9 if name in wanted else None
            if (born_s is None or since_s < born_s) and (count := self._outbox.withdraw(name, now_s=now_s)):
                self._ctx.log.warning("webhook %s was removed: %d waiting messages are dead letters now", name, count)

    def _make_courier(self, receiver: Receiver, outbox: Outbox) -> Callable[[], float | None]:
        keys = partial(self._receivers.keys, receiver)
        return Courier(receiver, outbox, self._post, keys, time.time, random.random).step

    def _wake(self) -> None:
        for _, sender in self._senders.values():
            sender.wake()
        if self._teller is not None and self._teller_thread is not None:
            self._teller.changed()
            self._teller_thread.wake()

    # --- the job ---

    def assign(self, partitions: frozenset[int]) -> None:
        """Nothing to recover: what waits is on disk."""

    def revoke(self, partitions: frozenset[int]) -> None:
        """What was taken in is on disk and goes out from here, whoever reads on."""

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        """Makes the messages durable; then the batch may be acknowledged."""
        alerts = [
            alert
            for _, alert in good(self._ctx, topic, partition, records, Alert, job=NAME)
            if alert.cluster == self._ctx.settings.cluster
        ]
        if alerts:
            self._reload()
            self._outbox.take(alerts, self._known, self._muted, now_s=self._ctx.wall_ns() / 1e9)
            self._wake()
        return Outcome.ACK

    def tick(self) -> Iterable[tuple[str, int, int]]:
        now_s, wall_s = self._ctx.monotonic(), self._ctx.wall_ns() / 1e9
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._reload()
            self._outbox.mute(self._muted, now_s=wall_s)
            if self._outbox.unmute(self._muted, now_s=wall_s):
                self._wake()
        if now_s - self._pruned_s >= PRUNE_S:
            self._pruned_s = now_s
            self._outbox.prune(wall_s)
        return ()

    def stop(self) -> None:
        """Ends the senders; what they had not sent waits on disk."""
        threads = [sender for _, sender in self._senders.values()]
        if self._teller_thread is not None:
            threads.append(self._teller_thread)
        for sender in threads:
            sender.end()
        for sender in threads:
            sender.join(END_S)
        self._outbox.close()
