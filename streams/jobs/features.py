"""The features job: telemetry of nodes in, features of GPUs out, a whole fetch at a time.

It keeps 64 samples per GPU in memory, drops what it has seen before, and rebuilds its windows after a restart by
reading the last minute again, so that a restart changes no output. It judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from models.features.registry import compute_all
from streams.contract.errors import ContractError
from streams.contract.topics import FEATURES as OUTPUT
from streams.contract.topics import TELEMETRY, Topic
from streams.jobs import features_wire as wire
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.jobs.decode import bury
from streams.jobs.features_state import MOST_AT_ONCE, PartitionState
from streams.jobs.features_wire import Sample
from streams.observe.trace import HEADER, Span, Value, of_headers
from streams.publisher import Headers
from streams.replay import Replay

NAME: Final = "features"
CHUNK: Final = 256  # messages computed at once: below it the fixed cost of 130 numpy calls shows, above it the cache
STATE_VERSION: Final = 1
PLAIN: Final = len(wire.HEADERS)  # headers of a message that is not traced: no other one is looked at
SILENT_S: Final = 600.0  # a node silent for ten minutes begins a new window after a restart of the worker


class SavedMarks(msgspec.Struct):
    """Snapshot of a partition: what each node had sent before the offset from which windows are read again.

    It serves readers that go on at `next` or later: earlier windows would reach back further than it does.
    """

    next: int
    marks: dict[str, dict[str, int]]
    silent_s: dict[str, float] = {}  # nodes that had said nothing for ten minutes or more, and for how long


@dataclass(slots=True)
class Counts:
    """Messages since the start: read = new + duplicates + dead; `gpus` counts feature rows sent."""

    new: int = 0
    duplicates: int = 0
    dead: int = 0
    gpus: int = 0


class FeaturesJob:
    """See streams.jobs.base.Job."""

    name = NAME
    topics: tuple[Topic, ...] = (TELEMETRY,)

    def __init__(self) -> None:
        self.counts = Counts()
        self._states: dict[int, PartitionState] = {}
        self._changed: set[int] = set()
        self._reader = wire.Reader()
        self._spans: dict[tuple[str, int], Span] = {}  # of traced messages of the batch in hand
        self._ctx: JobContext

    def start(self, ctx: JobContext) -> None:
        self._ctx = ctx

    def assign(self, partitions: frozenset[int]) -> None:
        """Nothing yet: how far a partition must be read again is known with its first record."""

    def revoke(self, partitions: frozenset[int]) -> None:
        for partition in sorted(partitions & self._changed):
            self._save(partition)
        for partition in partitions:
            self._states.pop(partition, None)
        self._changed -= partitions

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        state = self._states.get(partition)
        if state is None:
            state = self._states[partition] = self._recover(partition, records[0])
        state.now_s = self._ctx.monotonic()
        for part in chunks(self._samples(partition, state, records)):
            self._emit(state, part)
        state.next = records[-1].offset + 1
        self._changed.add(partition)
        if self._spans:
            self._end_spans()
        return Outcome.ACK

    def tick(self) -> Iterable[tuple[str, int, int]]:
        for partition in sorted(self._changed):
            if self._ctx.state.due(NAME, partition):
                self._save(partition)
                self._changed.discard(partition)
        return ()

    def stop(self) -> None:
        self._ctx.log.info("%s", self.counts)

    # --- in ---

    def _samples(self, partition: int, state: PartitionState, records: Sequence[ConsumerRecord]) -> list[Sample]:
        out, traces = [], self._ctx.tracing is not None
        for record in records:
            try:
                sample = self._reader.read(record.offset, record.value)
            except ContractError as error:
                self.counts.dead += 1
                bury(self._ctx, TELEMETRY, partition, record, reason=str(error), job=NAME)
                continue
            if state.is_new(sample.value):
                out.append(sample)
                if traces and len(record.headers) > PLAIN:
                    self._begin_span(sample.value, record, partition)
            else:
                self.counts.duplicates += 1
        self.counts.new += len(out)
        return out

    # --- out ---

    def _emit(self, state: PartitionState, samples: Sequence[Sample]) -> None:
        window = state.append(samples)
        matrix = np.array(list(compute_all(window).values()))
        emitted_ns = self._ctx.wall_ns()
        start = 0
        for sample in samples:
            board = sample.board
            if board is None or not board.uuid:
                continue
            stop = start + len(board.uuid)
            self._send(sample.value, board, matrix[:, start:stop].tolist(), emitted_ns)
            start = stop
        self.counts.gpus += start

    def _send(
        self, value: wire.TelemetryUsed, board: wire.Board, features: Sequence[list[float]], emitted_ns: int
    ) -> None:
        out = wire.FeaturesOut(
            value.cluster,
            value.node,
            value.boot_id,
            value.seq,
            value.ts_ns,
            emitted_ns,
            value.quality,
            board.uuid_json,
            wire.FeatureColumns(*features),
            value.schema,
            board.name_json,
            value.engines,
            board.device_json,
        )
        headers = wire.HEADERS if not self._spans else self._traced_headers(value)
        self._ctx.publisher.send_raw(OUTPUT.name, value.node.encode(), wire.encode(out), headers)

    # --- traces: one message in many ---

    def _begin_span(self, value: wire.TelemetryUsed, record: ConsumerRecord, partition: int) -> None:
        parent, tracing = of_headers(record.headers), self._ctx.tracing
        if parent is None or tracing is None:
            return
        where: dict[str, Value] = {"messaging.system": "kafka", "messaging.destination.name": TELEMETRY.name}
        where |= {"messaging.kafka.offset": record.offset, "messaging.destination.partition.id": str(partition)}
        span = tracing.tracer.start("features.process", parent=parent, attributes={"host.name": value.node, **where})
        self._spans[value.node, value.seq] = span

    def _traced_headers(self, value: wire.TelemetryUsed) -> Headers:
        span = self._spans.get((value.node, value.seq))
        return wire.HEADERS if span is None else [*wire.HEADERS, (HEADER, span.traceparent.encode())]

    def _end_spans(self) -> None:
        for span in self._spans.values():
            span.end()
        self._spans.clear()

    # --- recovery ---

    def _save(self, partition: int) -> None:
        state = self._states[partition]
        state.now_s = self._ctx.monotonic()
        state.forget()
        silent_s = state.silent_s(SILENT_S)
        back, marks = state.marks(silent_s)
        if back is not None:
            saved = SavedMarks(next=state.next, marks=marks, silent_s=silent_s)
            self._ctx.state.save(NAME, partition, saved, {TELEMETRY.name: back}, STATE_VERSION)

    def _recover(self, partition: int, first: ConsumerRecord) -> PartitionState:
        """Windows as they stood before this record, from the snapshot's offset or from ten minutes of records."""
        begun, state = self._ctx.monotonic(), PartitionState()
        state.now_s = begun
        saved = self._saved(partition, first.offset)
        with Replay(self._ctx.settings.bootstrap, f"{self._ctx.settings.group(NAME)}-recovery") as replay:
            low, _ = replay.bounds(TELEMETRY.name, partition)
            if saved is not None:
                start = saved[0]
                state.load_marks(saved[1].marks, saved[1].silent_s)
            elif first.offset > low:
                start = replay.offset_at(TELEMETRY.name, partition, first.timestamp - int(SILENT_S * 1000))
            else:
                start = first.offset
            for chunk in replay.read(TELEMETRY.name, partition, start=max(low, start), end=first.offset):
                self._remember(state, chunk)
        self._ctx.log.info(
            "partition %d: read again %d..%d in %.2f s (%s)",
            partition,
            max(low, start),
            first.offset,
            self._ctx.monotonic() - begun,
            "from a snapshot" if saved is not None else "without a snapshot",
        )
        return state

    def _saved(self, partition: int, first: int) -> tuple[int, SavedMarks] | None:
        """Offset to read again from and the marks there; None when no snapshot serves a reader at `first`."""
        found = self._ctx.state.load(NAME, partition)
        if found is None or found.data_version != STATE_VERSION:
            return None
        try:
            saved = msgspec.json.decode(found.data, type=SavedMarks)
            back = found.offsets[TELEMETRY.name]
        except (msgspec.MsgspecError, KeyError) as error:
            # Ten minutes of records serve as well: a worker that ends here would end at every start.
            self._ctx.log.warning(
                "snapshot of partition %d is not readable (%s); reading ten minutes again", partition, error
            )
            return None
        return (back, saved) if saved.next <= first else None

    def _remember(self, state: PartitionState, records: Sequence[ConsumerRecord]) -> None:
        samples = []
        for record in records:
            try:
                sample = self._reader.read(record.offset, record.value)
            except ContractError:
                continue  # it went to the dead-letter queue when it was first read
            if state.is_new(sample.value):
                samples.append(sample)
        for part in chunks(samples):
            state.append(part)


def chunks(samples: Iterable[Sample]) -> list[list[Sample]]:
    """The same samples in order, in parts of at most CHUNK in which each node keeps its boot and has MOST_AT_ONCE."""
    out: list[list[Sample]] = []
    part: list[Sample] = []
    seen: dict[str, tuple[str, int]] = {}
    for sample in samples:
        node, boot = sample.value.node, sample.value.boot_id
        known, count = seen.get(node, (boot, 0))
        if len(part) == CHUNK or count == MOST_AT_ONCE or known != boot:
            out.append(part)
            part, seen, count = [], {}, 0
        seen[node] = boot, count + 1
        part.append(sample)
    return [*out, part] if part else out
