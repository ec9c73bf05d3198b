"""The ledger job: joins cause, command, acknowledgement and measured effect into one line per GPU and change.

Which commands get a line stands in ledger_book. Commands and answers are held until a snapshot covers them, so that a
killed job re-opens its lines; lines closed after the last snapshot come twice then, with the same (GPU, epoch, seq,
status), and the first one counts. Features are acknowledged at once: samples lost with the process make an effect
unknown, never wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from streams.contract.errors import SignatureInvalid
from streams.contract.records import LedgerEntry, NodeFeatures, PowerApplied, PowerDesired
from streams.contract.signing import KeyRing
from streams.contract.topics import APPLIED, DESIRED, FEATURES, Topic
from streams.errors import DeliveryFailed
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.jobs.decode import ours
from streams.jobs.ledger_book import NodeBook
from streams.jobs.ledger_window import NodeWindow
from streams.observe.trace import JobTracing, Value, of_headers
from streams.transport import FetchTuning

NAME: Final = "ledger"
VERSION: Final = 1
LARGEST_BYTES: Final = 900_000  # of a snapshot: Kafka's default bound on a message is 1 MB
FLUSH_S: Final = 5.0


class Saved(msgspec.Struct):
    """A partition's snapshot."""

    books: list[NodeBook] = []


@dataclass(slots=True)
class _Partition:
    books: dict[str, NodeBook] = field(default_factory=dict)
    windows: dict[str, NodeWindow] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)  # topic -> last offset not yet covered by a snapshot
    unmeasured: bool = False  # the last snapshot has lines without the power before: features may come after commands


class LedgerJob:
    """Implements streams.jobs.base.Job."""

    name = NAME
    topics: tuple[Topic, ...] = (DESIRED, APPLIED, FEATURES)
    # An effect is measured over seconds; two fetches a second instead of twenty spare job and broker.
    fetch: Final = FetchTuning(max_wait_ms=500, min_bytes=4_000_000)

    def start(self, ctx: JobContext) -> None:
        self._ctx = ctx
        self._cluster = ctx.settings.cluster
        path = ctx.layout.keyring
        self._keyring = KeyRing.load(path) if path.exists() else None
        self._parts: dict[int, _Partition] = {}
        self._durable: list[tuple[str, int, int]] = []

    def assign(self, partitions: frozenset[int]) -> None:
        """Takes the open lines of the last snapshot up again."""
        now_s = self._ctx.monotonic()
        for number in sorted(partitions):
            part = self._parts[number] = _Partition()
            for book in self._recover(number):
                for line in book.open.values():
                    line.seen_s = now_s
                part.books[book.node] = book

    def _recover(self, number: int) -> list[NodeBook]:
        saved = self._ctx.state.load(NAME, number)
        if saved is None or saved.data_version != VERSION:
            return []
        try:
            return msgspec.json.decode(saved.data, type=Saved).books
        except msgspec.MsgspecError as error:
            # Without it every GPU's next command counts as its first: more lines, none wrong.
            self._ctx.log.warning("snapshot of partition %d is not readable (%s); starting without", number, error)
            return []

    def revoke(self, partitions: frozenset[int]) -> None:
        """Saves the open lines for the next owner."""
        for number in partitions & self._parts.keys():
            self._save(number, self._parts.pop(number))

    def stop(self) -> None:
        """Nothing is open besides what revoke has saved."""

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        """One batch of one of the three topics."""
        part = self._parts[partition]
        part.offsets[topic.name] = records[-1].offset + 1
        for record in records:
            if topic is FEATURES:
                if (features := ours(self._ctx, topic, partition, record, NodeFeatures, job=NAME)) is not None:
                    part.windows.setdefault(features.node, NodeWindow()).add(features)
            elif topic is DESIRED:
                command = ours(self._ctx, topic, partition, record, PowerDesired, job=NAME)
                if command is not None and self._genuine(command):
                    book, window = self._node(part, command.node)
                    self._send(book.command(command, window, self._ctx.monotonic()))
            elif (ack := ours(self._ctx, topic, partition, record, PowerApplied, job=NAME)) is not None:
                book, window = self._node(part, ack.node)
                if self._ctx.tracing is not None:
                    self._trace(self._ctx.tracing, ack, record)
                self._send(book.applied(ack, window, self._ctx.monotonic()))
        if topic is FEATURES:
            return Outcome.ACK
        part.held[topic.name] = records[-1].offset
        return Outcome.HOLD

    def _node(self, part: _Partition, node: str) -> tuple[NodeBook, NodeWindow]:
        book = part.books.get(node)
        if book is None:
            book = part.books[node] = NodeBook(node, self._cluster)
        return book, part.windows.setdefault(node, NodeWindow())

    def _genuine(self, command: PowerDesired) -> bool:
        """A forged envelope must not move the mark: genuine ones would count as old. Without a key ring all count."""
        try:
            if self._keyring is not None:
                self._keyring.verify(command)
        except SignatureInvalid as error:
            self._ctx.log.warning("an envelope for %s is not counted: %s", command.node, error)
            return False
        return True

    def _send(self, entries: Iterable[LedgerEntry]) -> None:
        for entry in entries:
            context = None if self._ctx.tracing is None else self._closed(self._ctx.tracing, entry)
            self._ctx.publisher.send(entry, entry.node, source=NAME, traceparent=context)

    def _trace(self, tracing: JobTracing, ack: PowerApplied, record: ConsumerRecord) -> None:
        """The answer to a traced command; its context waits until the command's lines are closed."""
        parent = of_headers(record.headers)
        if parent is None or ack.event != "command":
            return
        facts: dict[str, Value] = {"host.name": ack.node, "eo.epoch": ack.epoch, "eo.seq": ack.seq}
        span = tracing.tracer.start("ledger.answer", parent=parent, attributes=facts)
        span.end()
        tracing.handoff.put((ack.node, ack.epoch, ack.seq), span.traceparent)

    def _closed(self, tracing: JobTracing, entry: LedgerEntry) -> str | None:
        """A span from the answer to the close of a line, with the effect that was measured."""
        parent = tracing.handoff.get((entry.node, entry.epoch, entry.seq))
        if parent is None:
            return None
        facts: dict[str, Value] = {"host.name": entry.node, "hw.id": entry.gpu_uuid, "eo.status": entry.status}
        facts |= {} if entry.effect_w is None else {"eo.effect_w": entry.effect_w}
        span = tracing.tracer.start("ledger.close", parent=parent, start_ns=entry.acked_ns, attributes=facts)
        span.end(entry.closed_ns)
        return span.traceparent

    def tick(self) -> Iterable[tuple[str, int, int]]:
        """Closes what is due; yields what a snapshot covers."""
        now_s = self._ctx.monotonic()
        for number, part in self._parts.items():
            for node, book in part.books.items():
                if book.open:
                    self._send(book.due(part.windows.setdefault(node, NodeWindow()), now_s))
            if (part.held or part.unmeasured) and self._ctx.state.due(NAME, number):
                self._save(number, part)
        durable, self._durable = self._durable, []
        return durable

    def _save(self, number: int, part: _Partition) -> None:
        """A snapshot on the broker, then the offsets that it covers. Raises DeliveryFailed when it is not taken."""
        known = [book.measure(part.windows.setdefault(node, NodeWindow())) for node, book in part.books.items()]
        part.unmeasured = not all(known)
        self._ctx.state.save(NAME, number, self._snapshot(number, part), part.offsets, VERSION)
        if self._ctx.publisher.flush(FLUSH_S):
            raise DeliveryFailed(f"the ledger's snapshot of partition {number} was not acknowledged in {FLUSH_S:.0f} s")
        self._durable += [(topic, number, last) for topic, last in part.held.items()]
        part.held.clear()

    def _snapshot(self, number: int, part: _Partition) -> Saved:
        saved = Saved(list(part.books.values()))
        if len(msgspec.json.encode(saved)) <= LARGEST_BYTES:
            return saved
        self._ctx.log.warning(
            "partition %d has too many nodes for one snapshot of %d bytes: open lines and recent envelopes are left "
            "out; more partitions keep them",
            number,
            LARGEST_BYTES,
        )
        keep = ("node", "cluster", "mark", "granted", "status", "answered")
        return Saved([NodeBook(**{name: getattr(book, name) for name in keep}) for book in saved.books])
