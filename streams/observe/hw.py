"""Nodes' newest samples as OTLP metrics under OpenTelemetry's hardware conventions (`hw.*`). Pure: JSON out.

Energy is a counter in joules and preferred over power. There is no `hw.*` metric for a power limit, so ours is called
eo.gpu.power_limit. An unknown value gives no point. A chassis is the whole host: hw.host.power; parts use hw.power.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from streams.contract.records import DomainColumns, GpuColumns, NodeTelemetry
from streams.observe.columns import cell, word
from streams.observe.otlp_json import attributes

CUMULATIVE: Final = 2
HOST_KINDS: Final = frozenset({"chassis", "psys"})
TYPES: Final = {
    "cpu_package": "cpu",
    "cpu_core": "cpu",
    "cpu_uncore": "cpu",
    "dram": "memory",
    "supply": "power_supply",
    "fan": "fan",
    "gpu": "gpu",
    "board": "enclosure",
}
# metric -> (unit, column, factor, more attributes)
GPU: Final[tuple[tuple[str, str, str, float, dict[str, str]], ...]] = (
    ("hw.energy", "J", "energy_mj", 1e-3, {}),
    ("hw.power", "W", "power_w", 1, {}),
    ("hw.gpu.utilization", "1", "util_ratio", 1, {"hw.gpu.task": "general"}),
    ("hw.gpu.memory.usage", "By", "mem_used_mb", 1e6, {}),
    ("hw.gpu.memory.limit", "By", "mem_total_mb", 1e6, {}),
    ("hw.temperature", "Cel", "temp_c", 1, {"hw.sensor_location": "gpu"}),
    ("hw.temperature", "Cel", "mem_temp_c", 1, {"hw.sensor_location": "memory"}),
    ("eo.gpu.power_limit", "W", "limit_w", 1, {"hw.limit_type": "enforced"}),
    ("eo.gpu.power_limit", "W", "limit_requested_w", 1, {"hw.limit_type": "requested"}),
)
COUNTERS: Final = frozenset({"hw.energy", "hw.host.energy"})
Point = tuple[str, str, float, dict[str, str]]


def metrics(records: Sequence[NodeTelemetry], started_ns: int) -> list[dict[str, Any]]:
    """OTLP metrics of the newest samples of some nodes; `started_ns` is when counting began, for counters."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        for name, unit, value, labels in _points(record):
            point: dict[str, Any] = {"timeUnixNano": str(record.ts_ns), "asDouble": value}
            if name in COUNTERS:
                point["startTimeUnixNano"] = str(min(started_ns, record.ts_ns))
            node = {"host.name": record.node, **labels}
            found.setdefault((name, unit), []).append({**point, "attributes": attributes(node)})
    return [_metric(name, unit, points) for (name, unit), points in found.items()]


def _metric(name: str, unit: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    if name in COUNTERS:
        data: dict[str, Any] = {"aggregationTemporality": CUMULATIVE, "isMonotonic": True, "dataPoints": points}
        return {"name": name, "unit": unit, "sum": data}
    return {"name": name, "unit": unit, "gauge": {"dataPoints": points}}


def _points(record: NodeTelemetry) -> Iterator[Point]:
    if record.gpu is not None:
        yield from _gpus(record.gpu, record)
    if record.domains is not None:
        yield from _domains(record.domains)


def _gpus(gpu: GpuColumns, record: NodeTelemetry) -> Iterator[Point]:
    for index, uuid in enumerate(gpu.uuid):
        name = word(gpu.name, index)
        who = {"hw.id": uuid, "hw.type": "gpu", "hw.parent": record.node, "eo.quality": record.quality}
        who |= {"hw.model": name} if name else {}
        for metric, unit, column, factor, more in GPU:
            value = cell(getattr(gpu, column), index)
            if value is not None:
                yield metric, unit, value * factor, {**who, **more}


def _domains(part: DomainColumns) -> Iterator[Point]:
    for index in range(len(part.name)):
        kind, parent = word(part.kind, index), word(part.parent, index)
        host = kind in HOST_KINDS
        who = {"hw.id": word(part.name, index), "eo.quality": word(part.quality, index)}
        who |= {"eo.source": word(part.source, index)}
        who |= {} if host else {"hw.type": TYPES.get(kind, kind)}
        who |= {"hw.parent": parent} if parent else {}
        power, energy = cell(part.power_w, index), cell(part.energy_mj, index)
        if power is not None:
            yield "hw.host.power" if host else "hw.power", "W", float(power), who
        if energy is not None:
            yield "hw.host.energy" if host else "hw.energy", "J", energy * 1e-3, who
