"""Threads between the event loop and the transactional producers: a commit takes 35-60 ms, the loop must not wait.

One thread per partition, so that partitions do not wait for each other. What is handed over while a commit runs goes
out together in the next one, and the newest envelope of a node replaces older ones. Back come tokens (offsets that may
be acknowledged), names of nodes whose envelopes were not written, and at most one failure, which ends the job.
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
    """What a thread needs of a PartitionWriter."""

    def open(self, *, epoch_floor: int = 0, timeout_s: float = 30.0) -> int: ...

    def write(self, drafts: Sequence[PowerDesired]) -> int: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Results:
    """What all threads have to tell the event loop."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    done: list[Token] = field(default_factory=list)
    failed_nodes: list[str] = field(default_factory=list)
    failure: BaseException | None = None
    written_total: int = 0
    aborted_total: int = 0


@dataclass(slots=True)
class _Work:
    drafts: dict[str, PowerDesired] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)
    last: bool = False


class PartitionThread:
    """Owns the writer of one partition from its opening to its end."""

    def __init__(self, writer: Writer, results: Results, *, epoch_floor: int, wall_ns: Callable[[], int]) -> None:
        self.epoch: int | None = None
        self._writer, self._results, self._wall_ns = writer, results, wall_ns
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._pending = 0
        self._thread = threading.Thread(target=self._run, args=(epoch_floor,), name="actuation-writer", daemon=True)
        self._thread.start()

    def submit(self, drafts: Iterable[PowerDesired], tokens: Iterable[Token]) -> None:
        with self._results.lock:
            self._pending += 1
        self._work.put(_Work({d.node: d for d in drafts}, list(tokens)))

    def end(self) -> None:
        """After what was handed over, the thread ends and the partition is let go."""
        self._work.put(_Work(last=True))

    @property
    def idle(self) -> bool:
        """Whether it is open, or over, and nothing waits."""
        with self._results.lock:
            return not self._thread.is_alive() or (self._pending == 0 and self.epoch is not None)

    def join(self, timeout_s: float) -> None:
        self._thread.join(max(0.0, timeout_s))

    def _run(self, epoch_floor: int) -> None:
        try:
            self.epoch = self._writer.open(epoch_floor=epoch_floor)
            while not (work := self._next()).last:
                self._write(work)
        except Exception as error:  # noqa: BLE001
            # Whatever it was, commands cannot be written any more: the event loop raises it at its next tick.
            log.error("the command writer ended: %s", error)
            with self._results.lock:
                self._results.failure = self._results.failure or error
        finally:
            self._writer.close()

    def _next(self) -> _Work:
        """The next piece of work with everything that waits behind it, except an order to end."""
        work = self._work.get()
        count = 1
        while not work.last and not self._work.empty():
            more = self._work.get()
            if more.last:
                self._work.put(more)
                break
            work.drafts |= more.drafts
            work.tokens += more.tokens
            count += 1
        with self._results.lock:
            self._pending -= 0 if work.last else count - 1
        return work

    def _write(self, work: _Work) -> None:
        oldest = self._wall_ns() - STALE_NS
        fresh = [draft for draft in work.drafts.values() if draft.issued_at_ns >= oldest]
        failed = [node for node, draft in work.drafts.items() if draft.issued_at_ns < oldest]
        written = aborted = 0
        if fresh:
            try:
                written = self._writer.write(fresh)
            except Aborted as error:
                failed, aborted = list(work.drafts), 1
                log.warning("%d envelopes will be decided anew: %s", len(failed), error)
        with self._results.lock:
            self._pending -= 1
            self._results.written_total += written
            self._results.aborted_total += aborted
            self._results.failed_nodes += failed
            self._results.done += work.tokens


class Writers:
    """The threads of all partitions that are ours."""

    def __init__(self, make: Callable[[int], Writer], wall_ns: Callable[[], int]) -> None:
        self._make, self._wall_ns = make, wall_ns
        self._results = Results()
        self._threads: dict[int, PartitionThread] = {}
        self._ending: list[PartitionThread] = []

    @property
    def written_total(self) -> int:
        return self._results.written_total

    def open(self, partition: int, *, epoch_floor: int = 0) -> None:
        """Takes a partition over; `ready` turns true once its epoch is known."""
        self.drop(partition)
        writer = self._make(partition)
        thread = PartitionThread(writer, self._results, epoch_floor=epoch_floor, wall_ns=self._wall_ns)
        self._threads[partition] = thread

    def drop(self, partition: int) -> None:
        """Lets a partition go after what was handed over for it; its leases run out or its next owner renews them."""
        if (thread := self._threads.pop(partition, None)) is not None:
            thread.end()
            self._ending = [one for one in (*self._ending, thread) if not one.idle]

    def ready(self, partition: int) -> bool:
        return self.epoch(partition) is not None

    def epoch(self, partition: int) -> int | None:
        """The epoch in which a partition is written; None while it is not open."""
        thread = self._threads.get(partition)
        return None if thread is None else thread.epoch

    def submit(self, partition: int, drafts: Iterable[PowerDesired], tokens: Iterable[Token]) -> None:
        """Hands envelopes over; the tokens come back from `done` after their transaction is committed."""
        self._threads[partition].submit(drafts, tokens)

    def done(self) -> list[Token]:
        """Offsets whose outputs are durable since the last call. Raises a writer's failure: the job must end."""
        results = self._results
        with results.lock:
            if results.failure is not None:
                raise results.failure
            done, results.done = results.done, []
        return done

    def failed_nodes(self) -> list[str]:
        """Nodes whose envelopes were not written since the last call: they are due again."""
        results = self._results
        with results.lock:
            nodes, results.failed_nodes = results.failed_nodes, []
        return nodes

    def drain(self, timeout_s: float) -> bool:
        """Waits until everything handed over so far is finished; false when that took longer or a writer failed."""
        deadline = time.monotonic() + timeout_s
        threads = [*self._threads.values(), *self._ending]
        while not all(thread.idle for thread in threads) and time.monotonic() < deadline:
            time.sleep(0.002)
        return all(thread.idle for thread in threads) and self._results.failure is None

    def stop(self, timeout_s: float = 15.0) -> None:
        """Finishes what was handed over and ends the threads."""
        deadline = time.monotonic() + timeout_s
        for partition in list(self._threads):
            self.drop(partition)
        for thread in self._ending:
            thread.join(deadline - time.monotonic())
