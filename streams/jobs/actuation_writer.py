"""A thread between the event loop and the transactional producers: a commit takes 35-60 ms, the loop must not wait.

Work is handed over by queue and comes back as tokens (offsets that may be acknowledged), names of nodes whose envelopes
were rolled back, and at most one failure, which ends the job.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from streams.commands_out import Aborted
from streams.contract.records import PowerDesired

STALE_NS: Final = 5 * 10**9  # a decision that waited longer for its turn is made anew
log = logging.getLogger(__name__)
Token = tuple[str, int, int]  # topic, partition, last offset


class Writer(Protocol):
    """What the thread needs of a PartitionWriter."""

    def open(self, *, epoch_floor: int = 0, timeout_s: float = 30.0) -> int: ...

    def write(self, drafts: Sequence[PowerDesired]) -> int: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Work:
    partition: int
    drafts: dict[str, PowerDesired] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)
    epoch_floor: int | None = None  # set = open the partition
    drop: bool = False
    passed: threading.Event | None = None  # set = only tell that the queue got here


class WriterThread:
    """Runs the writers of all partitions, one transaction at a time."""

    def __init__(self, make: Callable[[int], Writer], wall_ns: Callable[[], int]) -> None:
        self._make, self._wall_ns = make, wall_ns
        self._writers: dict[int, Writer] = {}
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._done: list[Token] = []
        self._failed_nodes: list[str] = []
        self._epochs: dict[int, int] = {}
        self._open: set[int] = set()
        self._failure: BaseException | None = None
        self.written_total, self.aborted_total = 0, 0
        self._thread = threading.Thread(target=self._run, name="actuation-writer", daemon=True)
        self._thread.start()

    def open(self, partition: int, *, epoch_floor: int = 0) -> None:
        """Takes a partition over; `ready` turns true once its epoch is known."""
        self._open.add(partition)
        self._work.put(_Work(partition, epoch_floor=epoch_floor))

    def drop(self, partition: int) -> None:
        """Lets a partition go after what was handed over for it; its leases run out or its next owner renews them."""
        self._open.discard(partition)
        self._work.put(_Work(partition, drop=True))

    def ready(self, partition: int) -> bool:
        return self.epoch(partition) is not None

    def epoch(self, partition: int) -> int | None:
        """The epoch in which a partition is written; None while it is not open."""
        with self._lock:
            return self._epochs.get(partition)

    def submit(self, partition: int, drafts: Iterable[PowerDesired], tokens: Iterable[Token]) -> None:
        """Hands envelopes over; the tokens come back from `done` after their transaction is committed."""
        self._work.put(_Work(partition, {d.node: d for d in drafts}, list(tokens)))

    def done(self) -> list[Token]:
        """Offsets whose outputs are durable since the last call. Raises the writer's failure: the job must end."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            done, self._done = self._done, []
        return done

    def failed_nodes(self) -> list[str]:
        """Nodes whose envelopes were rolled back since the last call: they are due again."""
        with self._lock:
            nodes, self._failed_nodes = self._failed_nodes, []
        return nodes

    def drain(self, timeout_s: float) -> bool:
        """Waits until everything handed over so far is finished; false when that took longer or the thread ended."""
        passed, deadline = threading.Event(), time.monotonic() + timeout_s
        self._work.put(_Work(-1, passed=passed))
        while self._thread.is_alive() and time.monotonic() < deadline:
            if passed.wait(0.05):
                return True
        return passed.is_set()

    def stop(self, timeout_s: float = 15.0) -> None:
        """Finishes what was handed over and ends the thread."""
        self._work.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while (work := self._work.get()) is not None:
                if work.passed is not None:
                    work.passed.set()
                elif work.drop:
                    self._close(work.partition)
                elif work.epoch_floor is not None:
                    self._take_over(work.partition, work.epoch_floor)
                else:
                    self._write(work)
        except Exception as error:  # noqa: BLE001
            # Whatever it was, commands cannot be written any more: the event loop raises it at its next tick.
            log.error("the command writer ended: %s", error)
            for partition in list(self._writers):
                self._close(partition)
            with self._lock:
                self._failure = error

    def _take_over(self, partition: int, epoch_floor: int) -> None:
        if partition not in self._open:  # revoked again before its turn came
            return
        self._close(partition)
        writer = self._make(partition)
        epoch = writer.open(epoch_floor=epoch_floor)
        self._writers[partition] = writer
        with self._lock:
            self._epochs[partition] = epoch

    def _close(self, partition: int) -> None:
        with self._lock:
            self._epochs.pop(partition, None)
        if (writer := self._writers.pop(partition, None)) is not None:
            writer.close()

    def _write(self, work: _Work) -> None:
        writer = self._writers.get(work.partition)
        oldest = self._wall_ns() - STALE_NS
        fresh = [draft for draft in work.drafts.values() if draft.issued_at_ns >= oldest]
        failed = [node for node, draft in work.drafts.items() if draft.issued_at_ns < oldest]
        if writer is not None and fresh:
            try:
                self.written_total += writer.write(fresh)
            except Aborted as error:
                self.aborted_total += 1
                failed = list(work.drafts)
                log.warning("%d envelopes will be decided anew: %s", len(failed), error)
        with self._lock:
            self._failed_nodes.extend(failed)
            self._done.extend(work.tokens)
