"""The node's spool: every record goes to disk before Kafka sees it, so that an outage or a crash costs nothing.

Promises: order of numbers is order of appending; what was written survives a killed process, what is older than the
fsync interval survives a power cut; the folder stays below `max_bytes`; what has to be dropped is counted one by one.
What a damaged tail lost is counted exactly up to the last sync, and as one record beyond it: there, a lower bound (a
record whose delivery the cursor did not say yet counts as well).
Records may be read twice after a crash (the cursor may lag), never silently lost. One thread only.
"""

from __future__ import annotations

import errno
import logging
import os
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Final

from agents.node import spool_disk as disk
from agents.node.errors import SpoolError, SpoolUnusable
from agents.node.spool_disk import Cursor, Segment
from agents.node.spool_format import Frame, SpoolRecord, frame, record_of, scan
from agents.node.spool_gaps import Gaps
from streams.contract.failpoints import hit

log = logging.getLogger(__name__)
NOT_TAKEN: Final = 0  # what append returns when the disk is full
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

__all__ = ["NOT_TAKEN", "Spool", "SpoolRecord"]


class Spool:
    """A bounded, checksummed queue on disk with a copy of its newest part in memory.

    Args:
        folder: its own folder; made when missing, locked against a second writer.
        max_bytes: bound of all segments together; the oldest segment that nobody is sending is dropped for it.
        segment_bytes: size at which a new file begins, the grain of dropping; at most a quarter of max_bytes.
        fsync_interval_s: how much a power cut may cost.
        clock: monotonic seconds.

    Raises:
        SpoolUnusable: the folder cannot be written, is in use, or the sizes do not fit.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 512 << 20,
        segment_bytes: int = 4 << 20,
        fsync_interval_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if segment_bytes * 4 > max_bytes:
            raise SpoolUnusable(
                f"spool segments of {segment_bytes} bytes are more than a quarter of {max_bytes} bytes; "
                "raise the bound or make segments smaller"
            )
        self.folder, self.boot_id, self.clock = folder, uuid.uuid4().hex, clock
        self.lost_total = 0
        self._max_bytes, self._segment_bytes, self._interval_s = max_bytes, segment_bytes, fsync_interval_s
        self._lock = disk.lock(folder)
        self._total_bytes = 0
        self._fd: int | None = None
        self._broken: str | None = None
        self._full = self._dirty = False
        self._synced_at = clock()
        self._tail: dict[int, SpoolRecord] = {}
        self._tail_first, self._tail_bytes = 1, 0
        self._read_ahead: tuple[Path, bytes, list[Frame]] | None = None
        self._pinned = 0
        self._open()

    # --- opening -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        cursor = disk.read_cursor(self.folder / "cursor") or self._guess()
        self.acked, self._gaps, self._written = cursor.acked, Gaps(cursor.gaps), cursor.written
        self._segments: list[Segment] = []
        try:
            self._recover()
        except OSError as error:
            raise SpoolUnusable(
                f"spool folder {self.folder} cannot be read or made durable ({error.strerror}); check the disk, or "
                "move it away"
            ) from error
        last = max((s.last for s in self._segments), default=0)
        self._written = max(self._written, last)
        self._next = max(last, self.acked, max((b for _, b in self._gaps.ranges), default=0)) + 1
        self._gaps.forget(self.acked)
        self._depth = self._next - 1 - self.acked - self._gaps.within(self.acked + 1, self._next - 1)
        self._tail_first = self._next
        self._cursor_saved = cursor
        if self.lost_total or self._written > cursor.written:
            # Or the next start would count the same damage again, or miss what it loses of the records just synced.
            self._save_cursor()

    def _guess(self) -> Cursor:
        """Without a cursor: what lies before the oldest segment was trimmed, so it is not ours to count as lost."""
        oldest = next(iter(disk.segments(self.folder)), None)
        return Cursor() if oldest is None else Cursor(int(oldest.stem) - 1)

    def _recover(self) -> None:
        paths, expected, torn, cut = disk.segments(self.folder), self.acked + 1, False, 0
        for path in paths:
            segment, frames, torn = disk.recover(path, newest=path is paths[-1])
            cut = segment.last + 1
            if not frames or segment.last <= self.acked or self._already_dropped(segment):
                path.unlink()
                continue
            for found in frames:
                if found.number > expected:
                    self._lose(expected, found.number - 1)
                expected = max(expected, found.number + 1)
            self._segments.append(segment)
            self._total_bytes += segment.size
        if not self._lose(expected, self._written) and torn and cut > self.acked:
            # The record that was being written when the process died: its number is used again.
            self.lost_total += 1

    def _already_dropped(self, segment: Segment) -> bool:
        """Whether a crash came between counting a segment as dropped and removing its file."""
        return self._gaps.within(segment.first, segment.last) == segment.last - segment.first + 1

    def _lose(self, first: int, last: int) -> int:
        """Counts the numbers of a range that are neither delivered nor counted yet."""
        lost = self._gaps.add(max(first, self.acked + 1), last)
        self.lost_total += lost
        return lost

    # --- appending ---------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Records that wait for delivery."""
        return self._depth

    @property
    def full(self) -> bool:
        """Whether the last append found no room on the disk."""
        return self._full

    @property
    def size_bytes(self) -> int:
        """Size of all segments on disk."""
        return self._total_bytes

    def append(self, key: bytes, value: bytes) -> int:
        """Stores a record and returns its number, or NOT_TAKEN (0) when the disk is full: then it is counted as lost.

        Raises SpoolError when the disk fails in any other way; nothing may be sent after that.
        """
        self._check()
        hit("agent.before_spool_write")
        number = self._next
        data = frame(number, key, value)
        try:
            segment, fd = self._writable(len(data))
            disk.append(fd, data, segment.size)
        except OSError as error:
            return self._not_taken(error)
        if self._full:
            self._full = False
            log.warning("spool %s takes records again; %d were lost so far", self.folder, self.lost_total)
        segment.size += len(data)
        self._total_bytes += len(data)
        segment.last = number
        self._next, self._depth, self._dirty = number + 1, self._depth + 1, True
        self._remember(SpoolRecord(number, key, value))
        return number

    def _not_taken(self, error: OSError) -> int:
        if error.errno not in _FULL:
            raise self._break("written", error) from error
        if not self._full:
            log.error("spool %s: no space left on the device; samples are lost until there is room", self.folder)
        self._full = True
        self.lost_total += 1
        return NOT_TAKEN

    def _writable(self, need: int) -> tuple[Segment, int]:
        """The open segment with room for `need` more bytes below all bounds."""
        current = self._segments[-1] if self._fd is not None else None
        if current is not None and current.size + need > self._segment_bytes and current.size > 0:
            self._rotate()
        self._make_room(need)
        if self._fd is None:
            path = disk.segment_path(self.folder, self._next)
            self._fd = disk.create(path)
            self._segments.append(Segment(path, self._next, self._next - 1, 0))
        return self._segments[-1], self._fd

    def _rotate(self) -> None:
        self._fsync()
        assert self._fd is not None
        os.close(self._fd)
        self._fd = None
        self._trim()

    def _make_room(self, need: int) -> None:
        while self._segments and self._total_bytes + need > self._max_bytes:
            closed = self._segments[:-1] if self._fd is not None else self._segments
            if not closed:
                return
            # A segment that is being sent is not lost yet: the producer has it in memory.
            self._drop(next((s for s in closed if s.first > self._pinned), closed[0]))

    def _drop(self, segment: Segment) -> None:
        lost = self._lose(segment.first, segment.last)
        self._depth -= lost
        log.error("spool %s is at its bound of %d bytes: %d oldest records lost", self.folder, self._max_bytes, lost)
        for number in range(segment.first, segment.last + 1):
            self._forget_tail(number)
        self._remove([segment])

    def _remove(self, gone: list[Segment]) -> None:
        """Removes files after the cursor says so durably: a crash in between must not count them as lost."""
        saved = self._save_cursor(durable=True)
        for segment in gone:
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)
            self._total_bytes -= segment.size
        self._read_ahead = None
        if not saved:
            self._save_cursor(durable=True)  # the disk was full, and the files just removed made room

    def _remember(self, record: SpoolRecord) -> None:
        if not self._tail:
            self._tail_first = record.number
        self._tail[record.number] = record
        self._tail_bytes += len(record.value)
        while self._tail_bytes > self._segment_bytes:
            self._forget_first()

    def _forget_first(self) -> None:
        self._forget_tail(self._tail_first)
        self._tail_first += 1

    def _forget_tail(self, number: int) -> None:
        if (record := self._tail.pop(number, None)) is not None:
            self._tail_bytes -= len(record.value)

    # --- reading and acknowledging -----------------------------------------------------------------------------

    def read(self, after: int, limit: int) -> list[SpoolRecord]:
        """Up to `limit` records with numbers above `after` and above what is acknowledged, oldest first."""
        first = max(after, self.acked) + 1
        if first >= self._next or limit <= 0:
            return []
        if self._tail and first >= self._tail_first:
            held = (self._tail[n] for n in range(first, self._next) if n in self._tail)
            return list(islice(held, limit))
        return self._read_disk(first, limit)

    def _read_disk(self, first: int, limit: int) -> list[SpoolRecord]:
        for segment in self._segments:
            if segment.last < first:
                continue
            data, frames = self._frames(segment)
            start = bisect_left(frames, first, key=lambda found: found.number)
            self._note_damage(max(first, segment.first), segment, frames[start:])
            if start < len(frames):
                return [record_of(data, found) for found in frames[start : start + limit]]
        return []

    def _frames(self, segment: Segment) -> tuple[bytes, list[Frame]]:
        cached = self._read_ahead
        # A cached copy of a segment that has grown since would make its new records look damaged.
        if cached is None or cached[0] != segment.path or not cached[2] or cached[2][-1].number < segment.last:
            data = self._bytes_of(segment)
            cached = (segment.path, data, list(scan(data)))
            self._read_ahead = cached
        return cached[1], cached[2]

    def _bytes_of(self, segment: Segment) -> bytes:
        try:
            return segment.path.read_bytes()
        except FileNotFoundError:
            return b""  # removed behind our back: its records are counted as lost by the caller
        except OSError as error:
            raise self._break("read", error) from error

    def _note_damage(self, first: int, segment: Segment, frames: list[Frame]) -> None:
        """Counts what should lie in a segment from `first` on and does not, damaged since it was written."""
        expected = first
        for number in [*(found.number for found in frames), segment.last + 1]:
            if number > expected:
                self._depth -= self._lose(expected, number - 1)
            expected = number + 1

    def pin(self, number: int) -> None:
        """Says that everything up to `number` is handed to a producer; such segments are dropped last."""
        self._pinned = number

    def ack(self, number: int) -> None:
        """Marks all records up to and including `number` as delivered; the file of the cursor follows in `sync`."""
        if number <= self.acked:
            return
        number = min(number, self._next - 1)
        self._depth -= number - self.acked - self._gaps.within(self.acked + 1, number)
        self.acked = number
        self._gaps.forget(number)
        while self._tail and self._tail_first <= number:
            self._forget_first()
        hit("agent.after_ack_before_trim")
        self._trim()

    def _trim(self) -> None:
        closed = len(self._segments) - (self._fd is not None)
        if done := [s for s in self._segments[:closed] if s.last <= self.acked]:
            self._remove(done)

    # --- durability --------------------------------------------------------------------------------------------

    def sync(self, now: float | None = None) -> bool:
        """Makes records and cursor durable when the interval has passed; returns whether it did. Raises SpoolError."""
        self._check()
        now = self.clock() if now is None else now
        if now - self._synced_at < self._interval_s:
            return False
        self._synced_at = now
        self._fsync()
        self._save_cursor()
        return True

    def _fsync(self) -> None:
        if self._fd is None or not self._dirty:
            return
        hit("agent.after_write_before_fsync")
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            # The kernel may have dropped the pages: a second fsync would lie.
            raise self._break("made durable", error) from error
        self._dirty, self._written = False, self._next - 1

    def _cursor(self) -> Cursor:
        return Cursor(self.acked, self._gaps.ranges, self._written)

    def _save_cursor(self, *, durable: bool = False) -> bool:
        if (cursor := self._cursor()) == self._cursor_saved:
            return True
        try:
            disk.write_cursor(self.folder / "cursor", cursor, durable=durable)
        except OSError as error:
            if error.errno not in _FULL:
                raise self._break("updated", error) from error
            return False  # the old cursor stays: it costs duplicates after a crash, not records
        self._cursor_saved = cursor
        return True

    def _break(self, what: str, error: OSError) -> SpoolError:
        self._broken = (
            f"spool {self.folder} could not be {what} ({error.strerror}); the agent stops rather than promise what "
            "the disk does not keep: check the disk and start it again"
        )
        return SpoolError(self._broken)

    def _check(self) -> None:
        if self._broken is not None:
            raise SpoolError(self._broken)

    def close(self) -> None:
        """Makes everything durable and lets go of the folder; may be called twice."""
        if self._lock < 0:
            return
        try:
            if self._broken is None:
                self._fsync()
                self._save_cursor()
        finally:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            os.close(self._lock)
            self._lock = -1
