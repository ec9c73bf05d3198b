"""Online side of the feature store: the latest values per GPU, in memory, each with its age.

A value lives as long as its feature's time to live and is None afterwards: an old number is no number. Time is an
argument; nothing here reads a clock or Kafka (reader.py does).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from streams.contract.records import NodeFeatures, Quality
from streams.store.errors import UnknownFeature

State = Literal["fresh", "expired", "unknown"]


@dataclass(frozen=True, slots=True)
class OnlineValue:
    """One feature of one GPU as known now.

    `state` says why a value is None: "expired" = older than its time to live, "unknown" = the newest window could not
    give it, or nothing was ever pushed for this GPU (then `window_end_ns` is None too).
    """

    gpu_uuid: str
    feature: str
    value: float | None
    state: State
    ttl_s: float
    age_s: float | None = None
    window_end_ns: int | None = None
    quality: Quality | None = None


class OnlineStore:
    """Latest feature values of every GPU (the entity); features and their times to live come from the registry."""

    def __init__(self, ttl_s: Mapping[str, float]) -> None:
        self._ttl_s = dict(ttl_s)
        self._latest: dict[str, NodeFeatures] = {}  # node -> newest record
        self._place: dict[str, tuple[str, int]] = {}  # GPU -> node and index in that record

    def push(self, record: NodeFeatures) -> bool:
        """Takes a record in; False when it is older than, or the same as, what is already here."""
        known = self._latest.get(record.node)
        if known is not None and not _newer(record, known):
            return False
        if known is None or known.uuid != record.uuid:
            self._move(record, known)
        self._latest[record.node] = record
        return True

    def _move(self, record: NodeFeatures, known: NodeFeatures | None) -> None:
        for uuid in () if known is None else known.uuid:
            if self._place.get(uuid, ("",))[0] == record.node:
                del self._place[uuid]
        for index, uuid in enumerate(record.uuid):
            other = self._place.get(uuid)
            # A GPU that was moved to another machine belongs to whoever saw it last.
            if other is None or self._latest[other[0]].emitted_ns <= record.emitted_ns:
                self._place[uuid] = (record.node, index)

    def get(self, gpu_uuid: str, feature: str, *, now_ns: int) -> OnlineValue:
        """One feature of one GPU; raises UnknownFeature for a name outside the registry."""
        ttl_s = self._ttl_s.get(feature)
        if ttl_s is None:
            raise UnknownFeature(f"feature {feature!r} is not registered; `eo features list` names them")
        place = self._place.get(gpu_uuid)
        if place is None:
            return OnlineValue(gpu_uuid, feature, None, "unknown", ttl_s)
        record = self._latest[place[0]]
        age_ns = max(0, now_ns - record.window_end_ns)  # a node whose clock runs ahead is fresh, not negative
        column = record.features.get(feature)
        value = None if column is None else column[place[1]]
        state: State = "expired" if age_ns > ttl_ns(ttl_s) else "unknown" if value is None else "fresh"
        return OnlineValue(
            gpu_uuid,
            feature,
            value if state == "fresh" else None,
            state,
            ttl_s,
            age_ns / 1e9,
            record.window_end_ns,
            record.quality,
        )

    def row(self, gpu_uuid: str, *, now_ns: int, features: Iterable[str] | None = None) -> tuple[OnlineValue, ...]:
        """Several features of one GPU (default: every registered one)."""
        names = self._ttl_s if features is None else features
        return tuple(self.get(gpu_uuid, name, now_ns=now_ns) for name in names)

    def gpus(self) -> tuple[str, ...]:
        """Every GPU that something was pushed for, in alphabetical order."""
        return tuple(sorted(self._place))

    def node_of(self, gpu_uuid: str) -> str | None:
        """The node that the GPU was last seen on."""
        place = self._place.get(gpu_uuid)
        return None if place is None else place[0]


def ttl_ns(ttl_s: float) -> int:
    """A time to live in whole nanoseconds, the same on the online and the offline side."""
    return round(ttl_s * 1e9)


def _newer(record: NodeFeatures, known: NodeFeatures) -> bool:
    # Within one start of the agent seq decides, whatever its clock does; after a restart only the job's clock can.
    if record.boot_id == known.boot_id:
        return record.seq > known.seq
    return record.emitted_ns > known.emitted_ns
