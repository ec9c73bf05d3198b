"""The actuation job: features, verdicts and acknowledgements in; signed, leased envelopes out, in transactions.

A node's envelope is due when its last one is `envelope_interval_s` old, or at once when something urgent changed: a
verdict, a human's word, a GPU to be left alone, a rollback. Offsets are acknowledged after the commit. Mode observe,
the default, writes nothing. The job never restores anything: when it stops, leases run out and nodes put their values
back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from models.policy.arbiter import Facts
from models.policy.strategies import strategy
from streams.contract.dlq import DeadLetter
from streams.contract.errors import ContractError
from streams.contract.records import (
    AnomalyVerdict,
    EngineReading,
    NodeFeatures,
    OperatorIntent,
    PowerApplied,
    PowerDesired,
)
from streams.contract.topics import ANOMALY, APPLIED, FEATURES, INTENT, Topic
from streams.jobs import actuation_doors
from streams.jobs.actuation_beat import Beat
from streams.jobs.actuation_decide import Decider
from streams.jobs.actuation_doors import NAME
from streams.jobs.actuation_intents import IntentBook, Intents, take
from streams.jobs.actuation_latency import TRAINING, LatencyPools
from streams.jobs.actuation_slow import SlowStep
from streams.jobs.actuation_state import SNAPSHOT_VERSION, NodeState, Options, PartitionState, Snapshot
from streams.jobs.actuation_writer import Token, Writer, Writers
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.jobs.decode import letters_first, ours
from streams.observe.trace import of_headers

LETTERS_S: Final = 5.0  # for dead letters of a batch that is held


class ActuationJob:
    """Implements streams.jobs.base.Job."""

    name = NAME
    topics: tuple[Topic, ...] = (FEATURES, ANOMALY, APPLIED)

    def __init__(
        self,
        open_intents: Callable[[JobContext], Intents] | None = None,
        writers: Callable[[JobContext, Options], Callable[[int], Writer]] | None = None,
        partitions: Callable[[JobContext], int] | None = None,
        plans: Callable[[JobContext], list[dict[str, Any]]] | None = None,
    ) -> None:
        """The ways to Kafka besides the runtime's may be replaced, for tests."""
        self._open_intents = open_intents or actuation_doors.intents
        self._writers = writers or actuation_doors.writers
        self._count_partitions = partitions or actuation_doors.partitions
        self._read_plans = plans or actuation_doors.plans

    def start(self, ctx: JobContext) -> None:
        """Opens the intents and, unless the mode is observe, the way out. Raises StreamsError naming a missing key."""
        self._ctx = ctx
        self._options = Options.of(ctx.settings)
        chosen = strategy(self._options.strategy)
        self._pools = LatencyPools(chosen, window_s=self._options.latency_window_s)
        self._book = IntentBook(self._options.cluster, lambda: actuation_doors.keyring(ctx))
        self._decider = Decider(self._options, chosen, self._pools, self._book)
        self.slow = SlowStep(
            ctx,
            self._options,
            chosen,
            self._pools,
            lambda: self._count_partitions(ctx),
            lambda: self._read_plans(ctx),
        )
        self._decider.orders = self.slow
        self._beat = Beat(ctx, self._decider)
        self._parts: dict[int, PartitionState] = {}
        self._seen_version, self._guard_at_s, self._event_s = self._book.version, ctx.monotonic(), 0.0
        self._intents = self._open_intents(ctx)
        observe = self._options.mode == "observe"
        self._writer = None if observe else Writers(self._writers(ctx, self._options), ctx.wall_ns)
        ctx.log.info("actuation: mode %s, strategy %s", self._options.mode, self._options.strategy)

    def assign(self, partitions: frozenset[int]) -> None:
        """Recovers each partition and begins to take its commands over; nothing is sent until that is done."""
        for number in sorted(partitions):
            part = PartitionState(number, since_s=self._ctx.monotonic())
            snapshot = self._recover(part)
            self._parts[number] = part
            self.slow.recover(part)
            self.slow.recall(number)
            if self._writer is not None:
                self._writer.open(number, epoch_floor=snapshot.epoch)

    def _recover(self, part: PartitionState) -> Snapshot:
        saved = self._ctx.state.load(NAME, part.partition)
        if saved is None:
            return Snapshot()
        try:
            snapshot = msgspec.json.decode(saved.data, type=Snapshot)
        except msgspec.MsgspecError as error:
            # Hold-outs are chosen anew from the same hash and roster, so going on without a snapshot is safe.
            self._ctx.log.warning(
                "snapshot of partition %d is not readable (%s); starting without", part.partition, error
            )
            return Snapshot()
        part.recover(snapshot, self._options)
        for intent in snapshot.intents:
            self._accept_known(intent)
        return snapshot

    def _accept_known(self, intent: OperatorIntent) -> None:
        try:
            self._book.accept(intent, self._ctx.wall_ns())
        except ContractError as error:
            self._ctx.log.warning("an intent of the snapshot is not counted any more: %s", error)

    def revoke(self, partitions: frozenset[int]) -> None:
        """Saves what must be remembered and lets go; leases run out unless the next owner renews them."""
        for number in partitions:
            if number in self._parts:
                part = self._parts.pop(number)
                self.slow.note({number: part}, always=True)
                self._save(part)
                self.slow.release(part)
            if self._writer is not None:
                self._writer.drop(number)
        if self._writer is not None:
            self._writer.drain(2.0)

    def stop(self) -> None:
        """Ends the thread and the reader. Leases run out by themselves."""
        if self._writer is not None:
            self._writer.stop()
        self._intents.close()

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        """One batch; see the handlers."""
        part = self._parts[partition]
        part.offsets[topic.name] = records[-1].offset + 1
        if topic is FEATURES:
            return self._on_features(part, records)
        for record in records:
            if topic is ANOMALY:
                if (verdict := ours(self._ctx, topic, partition, record, AnomalyVerdict, job=NAME)) is not None:
                    self._on_verdict(part, verdict)
            else:
                if (ack := ours(self._ctx, APPLIED, partition, record, PowerApplied, job=NAME)) is not None:
                    self._on_ack(part, ack)
        return Outcome.ACK

    # --- features: the beat ---

    def _on_features(self, part: PartitionState, records: Sequence[ConsumerRecord]) -> Outcome:
        dead_before = self._ctx.publisher.dead_letters
        touched: dict[str, NodeState] = {}
        for record in records:
            features = ours(self._ctx, FEATURES, part.partition, record, NodeFeatures, job=NAME)
            if features is not None and (node := self._take(part, features)) is not None:
                touched[node.node] = node
                if self._ctx.tracing is not None and (context := of_headers(record.headers)) is not None:
                    node.trace = context
        drafts = self._drafts(part, touched.values())
        if not drafts:
            return Outcome.ACK
        assert self._writer is not None
        if self._ctx.publisher.dead_letters > dead_before:
            # They are on the broker before the held batch is: its commit acknowledges it unasked.
            letters_first(self._ctx, timeout_s=LETTERS_S)
        token: Token = (FEATURES.name, part.partition, records[-1].offset)
        self._writer.submit(part.partition, drafts, [token])
        return Outcome.HOLD

    def _take(self, part: PartitionState, record: NodeFeatures) -> NodeState | None:
        node = part.nodes.setdefault(record.node, NodeState(record.node))
        if record.boot_id == node.boot_id and record.seq <= node.seq:
            return None  # seen: at least once means twice now and then
        node.boot_id, node.seq, node.window_end_ns = record.boot_id, record.seq, record.window_end_ns
        node.uuid, node.name, node.device, node.engines = record.uuid, record.name, record.device, record.engines
        now_s = self._ctx.monotonic()
        part.enrol(node, now_s)
        sides = [part.side(node, engine, self._options, now_s) for engine in record.engines]
        self.slow.take(node, record, sides)
        # A clock that runs ahead must not age everybody's latency away, nor keep its own for ever.
        event_s = min(record.window_end_ns, self._ctx.wall_ns()) / 1e9
        self._event_s = max(self._event_s, event_s)
        for engine, side in zip(record.engines, sides, strict=True):
            if engine.kind == TRAINING:
                self._decider.paces.add(event_s, engine)
            if side != "default":
                self._pools.add(event_s, side, engine)
        return node

    def _drafts(self, part: PartitionState, nodes: Iterable[NodeState]) -> list[PowerDesired]:
        now_s, now_ns = self._ctx.monotonic(), self._ctx.wall_ns()
        if self._writer is None or not self._writer.ready(part.partition) or not self._intents.caught_up:
            return []
        if not part.settled(now_s, self._options.settle_s) or self.slow.waits:
            return []
        if part.roster_changed:
            if part.fill_holdout(self._options):
                self._save(part)
            # Who joined the hold-out, or an engine that is in it, under a grant: that ends now.
            for node in part.nodes.values():
                node.urgent |= part.kept_out(node.leased)
        return self._beat.drafts(part, nodes, now_s, now_ns)

    # --- what makes a node urgent ---

    def _on_verdict(self, part: PartitionState, verdict: AnomalyVerdict) -> None:
        if part.restraints.verdict(verdict, self._ctx.wall_ns(), freeze_s=self._options.freeze_s):
            self._hurry(part, verdict.node)

    def _on_ack(self, part: PartitionState, ack: PowerApplied) -> None:
        self.slow.answered(ack)
        if part.restraints.ack(ack, retry_s=self._options.retry_s):
            self._hurry(part, ack.node)

    def _hurry(self, part: PartitionState, node: str) -> None:
        part.dirty = True
        self._soon(part, node)

    def _soon(self, part: PartitionState, node: str) -> None:
        if node in part.nodes:
            part.nodes[node].urgent = True

    def _hurry_all(self) -> None:
        for part in self._parts.values():
            for node in part.nodes.values():
                node.urgent = True

    # --- time ---

    def tick(self) -> Iterable[Token]:
        """Intents, guards, snapshots; yields what was committed. Raises what ended the writer, e.g. Fenced."""
        now_ns = self._ctx.wall_ns()
        self._read_intents(now_ns)
        for part in self._parts.values():
            part.dirty |= part.restraints.expire(now_ns, self._book.resumed_ns)
        if self._ctx.monotonic() - self._guard_at_s >= self._options.guard_every_s:
            self._guard(now_ns)
            for part in self._parts.values():
                part.leave(self._options.absent_s)
        self._slow(now_ns)
        for part in self._parts.values():
            if part.dirty or self._ctx.state.due(NAME, part.partition):
                self._save(part)
        if self._writer is None:
            return []
        failed = set(self._writer.failed_nodes())
        for part in self._parts.values():
            for name in failed & part.nodes.keys():
                part.nodes[name].issued_s, part.nodes[name].silenced = None, False
        return self._writer.done()

    def _read_intents(self, now_ns: int) -> None:
        for raw in self._intents.poll():
            refused = take(self._book, raw, now_ns)
            if refused is not None and not raw.old:
                dead = DeadLetter(INTENT.name, 0, raw.offset, refused, NAME, now_ns)
                self._ctx.publisher.dead_letter(dead, raw.key, raw.value)
        self._book.tick(now_ns)
        if self._book.version != self._seen_version:
            self._seen_version = self._book.version
            self._hurry_all()

    def _guard(self, now_ns: int) -> None:
        self._guard_at_s = self._ctx.monotonic()
        for pool in self._pools.evaluate(self._event_s, now_ns):
            state = self._pools.guards[pool]
            back = state.rolled_back(now_ns)
            self._ctx.log.warning(
                "%s (%s): controlled p99 is outside the bound; %s",
                pool.stack,
                pool.workload,
                "rolled back to default" if back else f"targets tightened to {state.margin:.3f}",
            )
            self._hurry_all()

    def _slow(self, now_ns: int) -> None:
        # Before the roster is known nobody is held out yet, and a plan would count them as reachable.
        settled = {n: p for n, p in self._parts.items() if p.settled(self._ctx.monotonic(), self._options.settle_s)}

        def facts_of(part: PartitionState, node: NodeState, index: int, engine: EngineReading | None) -> Facts:
            return self._decider.facts(part, node, index, engine, now_ns)

        hurried = self.slow.step(settled, facts_of)
        self.slow.note(settled)
        for part in settled.values():
            for name in hurried & part.nodes.keys():
                self._soon(part, name)

    def _save(self, part: PartitionState) -> None:
        epoch = (self._writer.epoch(part.partition) if self._writer is not None else None) or 0
        part.dirty = False
        snapshot = part.snapshot(epoch, self._book.all())
        self._ctx.state.save(NAME, part.partition, snapshot, part.offsets, SNAPSHOT_VERSION)
