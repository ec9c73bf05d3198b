"""What the features job remembers of one partition: the running windows of its GPUs and what each node has sent.

No Kafka and no clock here; the arithmetic of windows is models.features.running.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.features.running import MOST_AT_ONCE, Running, RunningWindows
from models.features.window import COLUMNS, SPAN_NS, WIDTH, Floats
from streams.jobs.features_wire import Sample, TelemetryUsed

__all__ = ["MOST_AT_ONCE", "PartitionState"]
OLD_BOOTS: Final = 4  # boots of a node that are remembered against late duplicates
SPARE_GPUS: Final = 64  # GPUs of a node that are away and keep their windows; MIG instances get new names for ever
FORGET_S: Final = 172_800.0  # telemetry is kept for 48 h: a node silent for longer is forgotten
UNKNOWN: Final = (None,)


@dataclass(slots=True)
class Node:
    """One node: the newest sequence number of each boot, its GPUs' rows, and the samples that its window may hold."""

    seqs: dict[str, int] = field(default_factory=dict)
    boot_id: str = ""
    uuid: list[str] = field(default_factory=list)
    rows: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    by_uuid: dict[str, int] = field(default_factory=dict)
    heard_s: float = 0.0  # monotonic time of its last message
    recent: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=WIDTH))  # ts_ns, offset, seq


class PartitionState:
    """State of one partition."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.now_s = 0.0  # monotonic; the job sets it with each batch
        self.next = 0  # offset after the last record that was taken in
        self._running = Running()

    # --- identity: (node, boot_id, seq) ---

    def is_new(self, value: TelemetryUsed) -> bool:
        """Whether this message has not been counted; notes it when it has not."""
        node = self.nodes.get(value.node)
        if node is None:
            node = self.nodes[value.node] = Node()
        node.heard_s = self.now_s
        last = node.seqs.get(value.boot_id, -1)
        if value.seq <= last:
            return False
        if last < 0 and len(node.seqs) >= OLD_BOOTS:
            del node.seqs[next(iter(node.seqs))]
        node.seqs[value.boot_id] = value.seq
        return True

    # --- windows ---

    def append(self, samples: Sequence[Sample]) -> RunningWindows:
        """Adds these samples in their order; returns one window per GPU of each, in the same order.

        At most MOST_AT_ONCE samples, and of one boot per node. Use the windows before the next call.
        """
        per_sample = [self._rows(sample) for sample in samples]
        self._note(samples)
        rows, sizes = np.concatenate(per_sample), [len(rows) for rows in per_sample]
        ts_ns = np.repeat(np.array([sample.value.ts_ns for sample in samples], np.int64), sizes)
        return self._running.append(rows, ts_ns, _columns(samples))

    def _note(self, samples: Sequence[Sample]) -> None:
        for offset, value, _, _ in samples:
            self.nodes[value.node].recent.append((value.ts_ns, offset, value.seq))

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
            if len(node.by_uuid) > len(uuid) + SPARE_GPUS:
                self._let_go(node)
        return node.rows

    def _row(self, node: Node, uuid: str) -> int:
        row = node.by_uuid.get(uuid)
        if row is None:
            row = node.by_uuid[uuid] = self._running.row()
        return row

    def _clear(self, node: Node) -> None:
        """A new boot begins a new window, perhaps of other GPUs."""
        self._running.release(node.by_uuid.values())
        node.by_uuid, node.uuid, node.rows = {}, [], np.empty(0, np.intp)
        node.recent.clear()

    def _let_go(self, node: Node) -> None:
        """Forgets the GPUs that have been away and known longest."""
        present = set(node.uuid)
        away = [uuid for uuid in node.by_uuid if uuid not in present]
        self._running.release([node.by_uuid.pop(uuid) for uuid in away[:-SPARE_GPUS]])

    def forget(self) -> None:
        """Forgets nodes that have said nothing for FORGET_S: names come and go for ever, memory does not grow."""
        for name in [name for name, node in self.nodes.items() if self.now_s - node.heard_s > FORGET_S]:
            self._running.release(self.nodes.pop(name).by_uuid.values())

    @property
    def rows(self) -> int:
        """GPUs that are remembered."""
        return self._running.held

    # --- snapshots ---

    def silent_s(self, longer_than_s: float) -> dict[str, float]:
        """Nodes that have said nothing for longer than this, and for how long."""
        ages = {name: self.now_s - node.heard_s for name, node in self.nodes.items()}
        return {name: age for name, age in ages.items() if age > longer_than_s}

    def marks(self, silent: Collection[str] = ()) -> tuple[int | None, dict[str, dict[str, int]]]:
        """Where to read again from to have every window back, and what each node had sent before that offset.

        A silent node does not hold the offset back: after a restart its window is new. Who is silent is said by when
        it was heard, not by its samples' times: one clock that runs ahead would make all others look silent.
        None when no window has a sample.
        """
        back: int | None = None
        marks: dict[str, dict[str, int]] = {}
        for name, node in self.nodes.items():
            marks[name] = dict(node.seqs)
            if not node.recent or name in silent:
                continue
            horizon = node.recent[-1][0] - SPAN_NS
            _, offset, seq = next(entry for entry in node.recent if entry[0] > horizon)
            marks[name][node.boot_id] = seq - 1
            back = offset if back is None else min(back, offset)
        return back, marks

    def load_marks(self, marks: Mapping[str, Mapping[str, int]], silent_s: Mapping[str, float]) -> None:
        """Starts from marks, before anything is read again."""
        for name, seqs in marks.items():
            self.nodes[name] = Node(seqs=dict(seqs), heard_s=self.now_s - silent_s.get(name, 0.0))


def _columns(samples: Sequence[Sample]) -> dict[str, Floats]:
    """Values of all GPUs of these samples by column, unknown = NaN."""
    flat: list[list[float | None]] = [[] for _ in COLUMNS]
    for _, value, board, tokens in samples:
        if value.gpu is None or board is None:
            continue
        unknown = UNKNOWN * len(board.uuid)
        for column, values in zip(flat, value.gpu.columns(), strict=False):
            column += values or unknown  # grows in place
        flat[-1] += unknown if tokens is None else map(tokens.get, board.uuid)
    return {name: _floats(column) for name, column in zip(COLUMNS, flat, strict=True)}


def _floats(column: list[float | None]) -> Floats:
    """Numbers to an array, None to NaN."""
    try:
        return np.frombuffer(array("d", column))  # type: ignore[type-var]  # the fallback is for None
    except TypeError:
        return np.array(column, np.float64)
