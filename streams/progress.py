"""How far each partition may be committed: never past a batch whose effect is not durable. Arithmetic only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Partition(NamedTuple):
    """A topic partition; equal to Faust's TP and aiokafka's TopicPartition, which are named tuples too."""

    topic: str
    partition: int


@dataclass(slots=True)
class _Track:
    waiting: deque[int] = field(default_factory=deque)  # last offset of each batch in delivery order
    done: set[int] = field(default_factory=set)
    delivered: int = -1  # highest offset handed out
    ready: int | None = None  # next offset to read once everything before it is durable
    confirmed: int | None = None  # what the broker has stored


class Progress:
    """Book of the batches of every assigned partition.

    A batch is known by its last offset. Gaps (compacted records, transaction markers) need no care: a batch that is
    done covers everything before its last offset.
    """

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, int], _Track] = {}

    def delivered(self, tp: tuple[str, int], last: int) -> None:
        """A batch goes to the job. One that was handed out before (a repeated fetch) is tracked already."""
        track = self._tracks.setdefault(tp, _Track())
        if last > track.delivered:
            track.delivered = last
            track.waiting.append(last)

    def done(self, tp: tuple[str, int], last: int) -> None:
        """The effect of this batch is durable."""
        track = self._tracks.get(tp)
        if track is not None:
            track.done.add(last)
            self._advance(track)

    def durable(self, tp: tuple[str, int], through: int) -> None:
        """Every record up to and including `through` is durable, in whatever batches they came."""
        track = self._tracks.get(tp)
        if track is None:
            return
        through = min(through, track.delivered)
        while track.waiting and track.waiting[0] <= through:
            track.done.discard(track.waiting[0])
            track.waiting.popleft()
        track.ready = max(track.ready or 0, through + 1)
        self._advance(track)

    def _advance(self, track: _Track) -> None:
        while track.waiting and track.waiting[0] in track.done:
            last = track.waiting.popleft()
            track.done.discard(last)
            track.ready = max(track.ready or 0, last + 1)

    def committable(self, tp: tuple[str, int]) -> int | None:
        """The next offset to read, if the broker does not have it yet; stays the same until it is confirmed."""
        track = self._tracks.get(tp)
        if track is None or track.ready is None or track.ready == track.confirmed:
            return None
        return track.ready

    def confirm(self, offsets: Iterable[tuple[tuple[str, int], int]]) -> None:
        """The broker has stored these."""
        for tp, offset in offsets:
            if tp in self._tracks:
                self._tracks[tp].confirmed = offset

    def confirmed(self, tp: tuple[str, int]) -> int | None:
        """What this process has committed since the partition was assigned."""
        track = self._tracks.get(tp)
        return None if track is None else track.confirmed

    def idle(self, tp: tuple[str, int]) -> bool:
        """Whether everything handed out is committed."""
        track = self._tracks.get(tp)
        return track is None or (not track.waiting and track.ready == track.confirmed)

    def tracked(self) -> Iterator[tuple[str, int]]:
        """Partitions that were read."""
        return iter(list(self._tracks))

    def forget(self, tps: Iterable[tuple[str, int]]) -> None:
        """These partitions are no longer ours, or are read again from what is committed."""
        for tp in list(tps):
            self._tracks.pop(tp, None)
