"""What the features job remembers of one partition: the last 64 samples of each GPU and what each node has sent.

Samples lie in one array, oldest to newest, with room for 65 more before a row is moved back to its start: appending
costs one write, and the window of every sample of a batch is one contiguous slice. No Kafka and no clock here.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.features.window import COLUMNS, NEVER_NS, SPAN_NS, WIDTH, Floats, Window
from streams.jobs.features_wire import Sample, TelemetryUsed

ROOM: Final = 2 * WIDTH
MOST_AT_ONCE: Final = 64  # samples in one call; at most ROOM - (WIDTH - 1), the room of one row
FIRST_ROWS: Final = 256
OLD_BOOTS: Final = 4  # boots of a node that are remembered against late duplicates
UNKNOWN: Final = (None,)


@dataclass(slots=True)
class Node:
    """One node: the newest sequence number of each boot, its GPUs' rows, and the samples that its window may hold."""

    seqs: dict[str, int] = field(default_factory=dict)
    boot_id: str = ""
    uuid: list[str] = field(default_factory=list)
    rows: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    by_uuid: dict[str, int] = field(default_factory=dict)
    recent: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=WIDTH))  # ts_ns, offset, seq


class _Columns(Mapping[str, Floats]):
    """Columns of windows, each copied together when it is first asked for: it is then still in the processor's cache
    when it is summed."""

    def __init__(self, view: Floats, rows: NDArray[np.intp], start: NDArray[np.intp]) -> None:
        self._view, self._rows, self._start = view, rows, start
        self._ready: dict[str, Floats] = {}

    def __getitem__(self, name: str) -> Floats:
        found = self._ready.get(name)
        if found is None:
            found = self._ready[name] = self._view[self._rows, COLUMNS.index(name), self._start]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)


class PartitionState:
    """State of one partition."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.newest_ns = 0
        self.next = 0  # offset after the last record that was taken in
        self._used = 0
        self._values = np.full((FIRST_ROWS, len(COLUMNS), ROOM), np.nan)
        self._ts = np.full((FIRST_ROWS, ROOM), NEVER_NS, np.int64)
        self._newest = np.full(FIRST_ROWS, WIDTH - 2, np.intp)  # place of the newest sample of each row

    # --- identity: (node, boot_id, seq) ---

    def is_new(self, value: TelemetryUsed) -> bool:
        """Whether this message has not been counted; notes it when it has not."""
        node = self.nodes.get(value.node)
        if node is None:
            node = self.nodes[value.node] = Node()
        last = node.seqs.get(value.boot_id, -1)
        if value.seq <= last:
            return False
        if last < 0 and len(node.seqs) >= OLD_BOOTS:
            del node.seqs[next(iter(node.seqs))]
        node.seqs[value.boot_id] = value.seq
        return True

    # --- windows ---

    def append(self, samples: Sequence[Sample]) -> Window:
        """Adds these samples in their order; returns one window per GPU of each, in the same order.

        At most MOST_AT_ONCE samples, and of one boot per node. The windows are views until they are used: use them
        before the next call.
        """
        per_sample = [self._rows(sample) for sample in samples]
        self._note(samples)
        rows, sizes = np.concatenate(per_sample), [len(rows) for rows in per_sample]
        turn = _turns(rows)
        self._make_room(rows, turn)
        at = self._newest[rows] + 1 + turn
        self._ts[rows, at] = np.repeat(np.array([sample.value.ts_ns for sample in samples], np.int64), sizes)
        self._values[rows, :, at] = _columns(samples)
        np.maximum.at(self._newest, rows, at)
        return self._windows(rows, at)

    def _note(self, samples: Sequence[Sample]) -> None:
        for offset, value, _, _ in samples:
            ts_ns = value.ts_ns
            self.nodes[value.node].recent.append((ts_ns, offset, value.seq))
            if ts_ns > self.newest_ns:
                self.newest_ns = ts_ns

    def _windows(self, rows: NDArray[np.intp], at: NDArray[np.intp]) -> Window:
        start = at - (WIDTH - 1)
        ts = np.lib.stride_tricks.sliding_window_view(self._ts, WIDTH, axis=1)[rows, start]
        return Window(ts, _Columns(np.lib.stride_tricks.sliding_window_view(self._values, WIDTH, axis=2), rows, start))

    def _make_room(self, rows: NDArray[np.intp], turn: NDArray[np.intp]) -> None:
        full = np.unique(rows[self._newest[rows] + 1 + turn >= ROOM])
        if len(full):
            keep, start = WIDTH - 1, self._newest[full] - (WIDTH - 2)
            values = np.lib.stride_tricks.sliding_window_view(self._values, keep, axis=2)[full, :, start]
            self._values[full, :, :keep] = values
            self._ts[full, :keep] = np.lib.stride_tricks.sliding_window_view(self._ts, keep, axis=1)[full, start]
            self._newest[full] = WIDTH - 2

    def _rows(self, sample: Sample) -> NDArray[np.intp]:
        value = sample.value
        node = self.nodes[value.node]
        if node.boot_id != value.boot_id:
            self._clear(node)
            node.boot_id = value.boot_id
        uuid = [] if sample.board is None else sample.board.uuid
        if uuid is not node.uuid and uuid != node.uuid:
            node.rows = np.array([self._row(node, one) for one in uuid], np.intp)
            node.uuid = uuid
        return node.rows

    def _row(self, node: Node, uuid: str) -> int:
        row = node.by_uuid.get(uuid)
        if row is None:
            if self._used == len(self._ts):
                self._grow()
            row = node.by_uuid[uuid] = self._used
            self._used += 1
        return row

    def _grow(self) -> None:
        more = len(self._ts)
        self._values = np.concatenate((self._values, np.full((more, len(COLUMNS), ROOM), np.nan)))
        self._ts = np.concatenate((self._ts, np.full((more, ROOM), NEVER_NS, np.int64)))
        self._newest = np.concatenate((self._newest, np.full(more, WIDTH - 2, np.intp)))

    def _clear(self, node: Node) -> None:
        """A new boot begins a new window."""
        rows = np.array(list(node.by_uuid.values()), np.intp)
        self._values[rows], self._ts[rows], self._newest[rows] = np.nan, NEVER_NS, WIDTH - 2
        node.recent.clear()

    # --- snapshots ---

    def marks(self, silent_ns: int) -> tuple[int | None, dict[str, dict[str, int]]]:
        """Where to read again from to have every window back, and what each node had sent before that offset.

        A node silent for longer than `silent_ns` does not hold the offset back: after a restart its window is new.
        None when no window has a sample.
        """
        back: int | None = None
        marks: dict[str, dict[str, int]] = {}
        for name, node in self.nodes.items():
            marks[name] = dict(node.seqs)
            if not node.recent or node.recent[-1][0] < self.newest_ns - silent_ns:
                continue
            horizon = node.recent[-1][0] - SPAN_NS
            _, offset, seq = next(entry for entry in node.recent if entry[0] > horizon)
            marks[name][node.boot_id] = seq - 1
            back = offset if back is None else min(back, offset)
        return back, marks

    def load_marks(self, marks: Mapping[str, Mapping[str, int]]) -> None:
        """Starts from marks, before anything is read again."""
        for name, seqs in marks.items():
            self.nodes[name] = Node(seqs=dict(seqs))


def _turns(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """How many times each entry's row stands before it."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    place = np.arange(len(rows))
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    turns = np.empty(len(rows), np.intp)
    turns[order] = place - np.maximum.accumulate(np.where(begins, place, 0))
    return turns


def _columns(samples: Sequence[Sample]) -> Floats:
    """Values of all GPUs of these samples, shape (GPUs, columns), unknown = NaN."""
    flat: list[list[float | None]] = [[] for _ in COLUMNS]
    for _, value, board, tokens in samples:
        if value.gpu is None or board is None:
            continue
        unknown = UNKNOWN * len(board.uuid)
        for column, values in zip(flat, value.gpu.columns(), strict=False):
            column += values or unknown  # grows in place
        flat[-1] += unknown if tokens is None else map(tokens.get, board.uuid)
    out = np.empty((len(flat[-1]), len(COLUMNS)))
    for index, column in enumerate(flat):
        out[:, index] = _floats(column)
    return out


def _floats(column: list[float | None]) -> Floats:
    """Numbers to an array, None to NaN."""
    try:
        return np.frombuffer(array("d", column))  # type: ignore[type-var]  # the fallback is for None
    except TypeError:
        return np.array(column, np.float64)
