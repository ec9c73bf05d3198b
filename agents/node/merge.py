"""Readings of several sources into one record. Qualities never mix silently: the merged one is the most doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from agents.node.sources.base import Reading
from streams.contract.records import (
    DomainColumns,
    EngineReading,
    GpuColumns,
    HostReading,
    Quality,
    SensorColumns,
)

_DOUBT: Final[dict[Quality, int]] = {"measured": 0, "estimated": 1, "simulated": 2}
P = TypeVar("P", GpuColumns, HostReading)


def worst(qualities: Sequence[Quality]) -> Quality:
    """The most doubtful of them: simulated over estimated over measured; nothing at all counts as measured."""
    return max(qualities, key=_DOUBT.__getitem__, default="measured")


def quality(readings: Sequence[Reading]) -> Quality:
    """Of the record: domains carry their own per row, so a reading of nothing else does not make the GPUs doubtful."""
    shared = [r.quality for r in readings if r.gpu is not None or r.host is not None or r.engines]
    return worst(shared or [r.quality for r in readings])


def gpus(readings: Sequence[Reading]) -> GpuColumns | None:
    """The first source's GPUs; later ones fill columns that are unknown, matched by UUID."""
    found = [r.gpu for r in readings if r.gpu is not None]
    if len(found) < 2:
        return found[0] if found else None
    return _filled([found[0], *(_as_ordered(g, found[0].uuid) for g in found[1:] if set(g.uuid) & set(found[0].uuid))])


def host(readings: Sequence[Reading]) -> HostReading | None:
    """The first source's host, with unknown fields filled from later ones."""
    found = [r.host for r in readings if r.host is not None]
    return _filled(found) if found else None


def engines(readings: Sequence[Reading]) -> tuple[EngineReading, ...]:
    """All engines; of two readings of one engine the first holds."""
    if len(readings) == 1:
        return readings[0].engines
    return tuple({e.engine: e for r in reversed(readings) for e in r.engines}.values())


def domains(readings: Sequence[Reading]) -> DomainColumns | None:
    """All domains of all sources; a name that an earlier one has gets its source in front: "redfish:psu-0"."""
    parts = [r.domains for r in readings if r.domains is not None and r.domains.name]
    if not parts or _unique(parts):
        return parts[0] if parts else None
    renamed, taken = [], set[str]()
    for part in parts:
        names = _fresh(part, taken)
        now = dict(zip(reversed(part.name), reversed(names), strict=True))  # of twins the first is the parent
        parents = part.parent and tuple(None if p is None else now.get(p, p) for p in part.parent)
        renamed.append(msgspec.structs.replace(part, name=names, parent=parents))
    return DomainColumns(**_joined(renamed))


def sensors(readings: Sequence[Reading]) -> SensorColumns | None:
    """All sensors of all sources, with names made unique as those of domains are."""
    parts = [r.sensors for r in readings if r.sensors is not None and r.sensors.name]
    if not parts or _unique(parts):
        return parts[0] if parts else None
    taken = set[str]()
    return SensorColumns(**_joined([msgspec.structs.replace(part, name=_fresh(part, taken)) for part in parts]))


def union(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """All words in order of first mention."""
    return parts[0] if len(parts) == 1 else tuple(dict.fromkeys(word for part in parts for word in part))


def _unique(parts: Sequence[DomainColumns] | Sequence[SensorColumns]) -> bool:
    return len(parts) == 1 and len(set(parts[0].name)) == len(parts[0].name)


def _fresh(part: DomainColumns | SensorColumns, taken: set[str]) -> tuple[str, ...]:
    return tuple(_free(name, source, taken) for name, source in zip(part.name, part.source, strict=True))


def _free(name: str, source: str, taken: set[str]) -> str:
    """A name that nobody has: itself, with its source, then numbered."""
    fresh, number = name, 1
    while fresh in taken:
        fresh = f"{source}:{name}" if number == 1 else f"{source}:{name}#{number}"
        number += 1
    taken.add(fresh)
    return fresh


def _joined(parts: Sequence[DomainColumns | SensorColumns]) -> dict[str, Any]:
    """Columns of all parts one after the other; a column that a part lacks is null there."""
    columns: dict[str, Any] = {}
    for name in parts[0].__struct_fields__:
        values = [getattr(part, name) for part in parts]
        if any(value is not None for value in values):
            columns[name] = tuple(
                item
                for part, value in zip(parts, values, strict=True)
                for item in (value if value is not None else (None,) * len(part.name))
            )
    return columns


def _as_ordered(gpu: GpuColumns, uuids: tuple[str, ...]) -> GpuColumns:
    """The same columns for `uuids` in their order; null for a GPU that is not there. State is the first source's."""
    if gpu.uuid == uuids:
        return gpu
    at = {uuid: n for n, uuid in enumerate(gpu.uuid)}
    places = [at.get(uuid) for uuid in uuids]
    columns: dict[str, Any] = {
        name: None
        if (column := getattr(gpu, name)) is None
        else tuple(None if n is None else column[n] for n in places)
        for name in gpu.__struct_fields__
        if name not in {"uuid", "state"}
    }
    return GpuColumns(uuid=uuids, **columns)


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
