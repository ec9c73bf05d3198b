"""Between the batch transport and a job: hands over batches, acknowledges them when their effect is durable.

A batch is acknowledged when every message that the job sent while processing it is on the broker (ACK), or when the
job's tick names its offsets (HOLD). A job that raises stops the worker; its batch is read again by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Sequence
from typing import Final

from streams.contract.failpoints import hit
from streams.contract.topics import BY_NAME, Topic
from streams.errors import DeliveryFailed, JobFailed
from streams.jobs.base import ConsumerRecord, Firing, Job, JobContext, Outcome
from streams.metrics import WorkerMetrics
from streams.progress import Partition, Progress
from streams.publisher import Receipt

TICK_S: Final = 0.1
SETTLE_S: Final = 0.005
LAST_FLUSH_S: Final = 3.0
log = logging.getLogger(__name__)


class Runtime:
    """Runs one job. All methods run on the event loop of the worker."""

    def __init__(self, job: Job, ctx: JobContext, *, progress: Progress, metrics: WorkerMetrics) -> None:
        self.job = job
        self.ctx = ctx
        self.metrics = metrics
        self._judge = job if isinstance(job, Firing) else None
        self.failure: BaseException | None = None
        self.stopping = asyncio.Event()
        self._progress = progress
        self._unsettled: deque[tuple[Partition, int, Receipt]] = deque()
        self._ready = asyncio.Event()
        self._opening: asyncio.Task[None] | None = None
        self.owned: frozenset[int] = frozenset()
        self.assigned: frozenset[Partition] = frozenset()
        self._next: dict[Partition, int] = {}

    # --- rebalances (streams.transport.Hooks) ---

    async def revoking(self, partitions: set[tuple[str, int]]) -> None:
        """Stops handing out batches, waits for outputs on their way, lets the job make its state durable."""
        self._ready.clear()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self.failure is None and self.owned:
            try:
                self.job.revoke(self.owned)
                self._note_durable()
                await self._settle_all(LAST_FLUSH_S)
            except Exception as error:  # noqa: BLE001  a job's own failure stops the worker with its reason
                self.fail(error, f"giving up partitions {sorted(self.owned)}")
        self.owned, self.assigned = frozenset(), frozenset()
        self._unsettled.clear()
        self._next.clear()
        hit("streams.in_rebalance")

    def assigning(self, partitions: set[tuple[str, int]]) -> None:
        """Recovers the job's state after the group has settled: heartbeats begin only when this has returned."""
        self._ready.clear()
        self.assigned = frozenset(Partition(*tp) for tp in partitions)
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        await asyncio.sleep(0)
        shared = {topic.name for topic in self.job.topics if topic.partitions is None}
        self.owned = frozenset(tp.partition for tp in self.assigned if tp.topic in shared or not shared)
        begun = time.monotonic()
        try:
            self.job.assign(self.owned)
        except Exception as error:  # noqa: BLE001  a job's own failure stops the worker with its reason
            self.fail(error, f"taking over partitions {sorted(self.owned)}")
            return
        log.info("partitions %s assigned, ready in %.2f s", sorted(self.owned), time.monotonic() - begun)
        self._ready.set()

    # --- batches ---

    async def consume(self, topic: Topic, stream: AsyncIterable[Sequence[ConsumerRecord]]) -> None:
        """The body of a Faust agent: one batch after the other."""
        async for records in stream:
            generation = self.assigned
            if not self._ready.is_set():
                await self._ready.wait()
            if self.failure is None and generation is self.assigned and not self.stopping.is_set():
                try:
                    await self._one(topic, records)
                except Exception as error:  # noqa: BLE001  Faust would start the agent again and go on without the batch
                    self.fail(error, f"with a batch of {topic.name}")

    async def _one(self, topic: Topic, records: Sequence[ConsumerRecord]) -> None:
        tp = Partition(topic.name, records[0].partition)  # type: ignore[attr-defined]  # aiokafka's record names it
        hit("streams.after_poll")
        self._watch_gap(topic, tp, records)
        begun = time.perf_counter()
        try:
            outcome = self.job.process(topic, tp.partition, records)
        except Exception as error:  # noqa: BLE001  a job's own failure stops the worker with its reason
            self.fail(error, f"processing {tp.topic} {tp.partition}@{records[0].offset}..{records[-1].offset}")
            return
        self.metrics.process.observe(time.perf_counter() - begun)
        self.metrics.batch.observe(len(records))
        self.metrics.records.inc(len(records))
        if outcome is Outcome.ACK:
            self._unsettled.append((tp, records[-1].offset, self.ctx.publisher.seal()))
        await self._settle_below(self.ctx.settings.max_unsettled)

    def _watch_gap(self, topic: Topic, tp: Partition, records: Sequence[ConsumerRecord]) -> None:
        expected = self._next.get(tp, records[0].offset)
        self._next[tp] = records[-1].offset + 1
        if topic.cleanup == "delete" and records[0].offset > expected:
            self.metrics.gaps.inc(records[0].offset - expected)
            log.warning("%s %d: offsets %d..%d are missing", tp.topic, tp.partition, expected, records[0].offset - 1)

    async def _settle_below(self, limit: int) -> None:
        self.settle()
        while len(self._unsettled) >= limit and self.failure is None and self._ready.is_set():
            await asyncio.sleep(SETTLE_S)
            self.settle()

    async def _settle_all(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        self.settle()
        while self._unsettled and self.failure is None and time.monotonic() < deadline:
            await asyncio.sleep(SETTLE_S)
            self.settle()

    def settle(self) -> None:
        """Acknowledges the batches whose outputs are on the broker."""
        self.ctx.publisher.poll()
        while self._unsettled and self._unsettled[0][2].done:
            tp, last, receipt = self._unsettled.popleft()
            if receipt.error is not None:
                self.fail(DeliveryFailed(receipt.error), f"publishing the outputs of {tp.topic} {tp.partition}@{last}")
                return
            hit("streams.after_effect_before_store")
            self._progress.done(tp, last)

    # --- time ---

    async def tick_forever(self, beat: Callable[[], None] = lambda: None) -> None:
        """Calls the job's tick and acknowledges, about every 100 ms, until the worker stops; `beat` each time."""
        while not self.stopping.is_set():
            beat()
            self.tick()
            await asyncio.sleep(TICK_S)

    def tick(self) -> None:
        """One beat."""
        self.settle()
        if self.failure is None and self._ready.is_set():
            try:
                self._note_durable()
            except Exception as error:  # noqa: BLE001  a job's own failure stops the worker with its reason
                self.fail(error, "in its tick")
        self.metrics.dead.set(self.ctx.publisher.dead_letters)
        self.metrics.outstanding.set(self.ctx.publisher.outstanding)
        if self._judge is not None:
            for rule, count in self._judge.firing().items():
                self.metrics.alerts.labels(rule).set(count)

    def _note_durable(self) -> None:
        for topic, partition, offset in self.job.tick():
            if topic not in BY_NAME:
                raise ValueError(f"tick() names topic {topic!r}, which is not in the contract")
            self._progress.durable(Partition(topic, partition), offset)

    # --- end ---

    def fail(self, error: BaseException, doing: str) -> None:
        """Stops the worker for this reason; what is not acknowledged is read again by the next."""
        if self.failure is None:
            text = f"job {self.job.name} failed {doing}: {type(error).__name__}: {error}"
            log.error("%s", text, exc_info=error)
            self.failure = JobFailed(text)
            self.failure.__cause__ = error
        self.stopping.set()

    def ended(self, task: asyncio.Task[None]) -> None:
        """Done-callback of the worker's own tasks: none may end by an error unseen."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error, "in its background work")

    async def finish(self) -> None:
        """A clean end: outputs out, state durable, the job closed."""
        self._ready.clear()
        self.stopping.set()
        if self.failure is not None:
            return
        try:
            self.job.revoke(self.owned)
            self.owned = frozenset()
            self._note_durable()
            await self._settle_all(LAST_FLUSH_S)
            self.job.stop()
        except Exception as error:  # noqa: BLE001  a job's own failure is the exit code of the worker
            self.fail(error, "while stopping")
        self.ctx.publisher.flush(LAST_FLUSH_S)
