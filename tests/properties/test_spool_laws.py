"""Laws of the spool under any sequence of appends, acknowledgements, restarts, crashes and torn tails."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agents.node import spool_disk
from agents.node.spool import Spool

MAX_BYTES, SEGMENT_BYTES = 8192, 1024


class SpoolMachine(RuleBasedStateMachine):
    """The model: which numbers were appended, which were acknowledged, which the spool says it lost."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.path = Path(self._folder.name)
        self.values: dict[int, bytes] = {}
        self.lost_before = 0
        self.spool = self._make()

    def _make(self) -> Spool:
        return Spool(self.path, max_bytes=MAX_BYTES, segment_bytes=SEGMENT_BYTES, clock=lambda: 0.0)

    def _held(self) -> list[int]:
        out: list[int] = []
        after = 0
        while batch := self.spool.read(after, 5):
            for record in batch:
                assert record.value == self.values[record.number]
            out += [record.number for record in batch]
            after = batch[-1].number
        return out

    @rule(size=st.integers(0, 400))
    def append(self, size: int) -> None:
        number = self.spool.append(b"n", b"v" * size)
        assert number > max(self.values, default=0)
        self.values[number] = b"v" * size

    @rule(share=st.floats(0, 1))
    def acknowledge(self, share: float) -> None:
        held = self._held()
        if held:
            self.spool.ack(held[int(share * (len(held) - 1))])

    @rule(seconds=st.floats(0, 3))
    def sync(self, seconds: float) -> None:
        self.spool.sync(seconds)

    @rule(ahead=st.integers(0, 10))
    def pin(self, ahead: int) -> None:
        self.spool.pin(self.spool.acked + ahead)

    @rule()
    def restart(self) -> None:
        held, acked = self._held(), self.spool.acked
        self.lost_before += self.spool.lost_total
        self.spool.close()
        self.spool = self._make()
        assert (self._held(), self.spool.acked, self.spool.lost_total) == (held, acked, 0)

    @rule()
    def crash(self) -> None:
        held = self._held()
        self._gone()
        self.spool = self._make()
        assert self._held()[-len(held) :] == held if held else True
        assert self.spool.lost_total == 0

    @precondition(lambda self: self.spool.depth > 0)
    @rule(cut=st.integers(1, 500))
    def torn(self, cut: int) -> None:
        held, synced = self._held(), self.spool._written
        behind = self.spool.acked - self.spool._cursor_saved.acked  # delivered, and the next start cannot know it
        self._gone()
        newest = spool_disk.segments(self.path)[-1]
        os.truncate(newest, max(0, newest.stat().st_size - cut))
        self.spool = self._make()
        found = self._held()
        kept = [n for n in found if n >= held[0]]
        assert kept == held[: len(kept)]
        gone = held[len(kept) :]
        assert sum(n <= synced for n in gone) <= self.spool.lost_total <= len(gone) + behind
        self.values = {n: v for n, v in self.values.items() if n < self.spool._next}

    def _gone(self) -> None:
        self.lost_before += self.spool.lost_total
        if self.spool._fd is not None:
            os.close(self.spool._fd)
        os.close(self.spool._lock)

    @invariant()
    def bounded_and_counted(self) -> None:
        held = self._held()
        assert held == sorted(set(held))
        assert self.spool.depth == len(held)
        assert self.spool.size_bytes == sum(p.stat().st_size for p in spool_disk.segments(self.path))
        assert self.spool.size_bytes <= MAX_BYTES

    def teardown(self) -> None:
        self.spool.close()
        self._folder.cleanup()


SpoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSpoolLaws = SpoolMachine.TestCase
