"""Readings of several sources into one record. Qualities never mix silently: the merged one is the most doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec

from agents.node.sources.base import Reading
from streams.contract.records import EngineReading, GpuColumns, HostReading, Quality

_DOUBT: Final[dict[Quality, int]] = {"measured": 0, "estimated": 1, "simulated": 2}
P = TypeVar("P", GpuColumns, HostReading)


def worst(qualities: Sequence[Quality]) -> Quality:
    """The most doubtful of them: simulated over estimated over measured; nothing at all counts as measured."""
    return max(qualities, key=_DOUBT.__getitem__, default="measured")


def gpus(readings: Sequence[Reading]) -> GpuColumns | None:
    """The first source's GPUs; a later one with the same GPUs in the same order fills columns that are unknown."""
    found = [r.gpu for r in readings if r.gpu is not None]
    if len(found) < 2:
        return found[0] if found else None
    return _filled([found[0], *(g for g in found[1:] if g.uuid == found[0].uuid)])


def host(readings: Sequence[Reading]) -> HostReading | None:
    """The first source's host, with unknown fields filled from later ones."""
    found = [r.host for r in readings if r.host is not None]
    return _filled(found) if found else None


def engines(readings: Sequence[Reading]) -> tuple[EngineReading, ...]:
    """All engines; of two readings of one engine the first holds."""
    if len(readings) == 1:
        return readings[0].engines
    return tuple({e.engine: e for r in reversed(readings) for e in r.engines}.values())


def union(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """All words in order of first mention."""
    return parts[0] if len(parts) == 1 else tuple(dict.fromkeys(word for part in parts for word in part))


def _filled(parts: Sequence[P]) -> P:
    first, *others = parts
    for other in others:
        missing = {
            name: value
            for name in first.__struct_fields__
            if getattr(first, name) is None and (value := getattr(other, name)) is not None
        }
        if missing:
            first = msgspec.structs.replace(first, **missing)
    return first
