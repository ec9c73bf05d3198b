"""Columns as rows and back: what a person or a script reads, against what travels. Shapes only; no value is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streams.contract.records import DomainColumns, GpuColumns, Quality, SensorColumns

Row = dict[str, Any]


def recorded(line: bytes) -> bytes:
    """A record as `eo read` printed it, with domains and sensors as rows, as one of the contract, in columns.

    Raises msgspec.MsgspecError, TypeError or KeyError for what is neither; the typed reader then says what is wrong.
    """
    record = msgspec.json.decode(line)
    for part in ("domains", "sensors"):
        found = record.get(part)
        if isinstance(found, list):
            columns = {name: [row[name] for row in found] for name in found[0]} if found else {}
            known = {n: column for n, column in columns.items() if n == "value" or any(v is not None for v in column)}
            record[part] = known or None
    return msgspec.json.encode(record)


def of_gpus(gpu: GpuColumns | None, quality: Quality) -> list[Row]:
    """One row per GPU with every field of the contract; unknown is None."""
    if gpu is None:
        return []
    return [{"index": n, **row, "quality": quality} for n, row in enumerate(_rows(gpu, len(gpu.uuid)))]


def of_domains(domains: DomainColumns | None) -> list[Row]:
    """One row per power domain."""
    return [] if domains is None else _rows(domains, len(domains.name))


def of_sensors(sensors: SensorColumns | None) -> list[Row]:
    """One row per sensor that measures no power."""
    return [] if sensors is None else _rows(sensors, len(sensors.name))


def _rows(columns: msgspec.Struct, size: int) -> list[Row]:
    values: Mapping[str, Sequence[Any]] = {
        name: column if (column := getattr(columns, name)) is not None else (None,) * size
        for name in columns.__struct_fields__
    }
    return [{name: column[n] for name, column in values.items()} for n in range(size)]
