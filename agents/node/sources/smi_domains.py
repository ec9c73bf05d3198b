"""What nvidia-smi says beside the board's own draw: module and memory power as nested domains, fans as sensors. Pure.

A superchip's module holds its GPU, which holds its memory: each names its parent, so that no sum counts a watt twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents.node.sources import smi_rows
from agents.node.sources.smi_tree import Node
from streams.contract.records import DomainColumns, SensorColumns

_SOURCE = "nvidia-smi"
_DRAWS = ("average_power_draw", "power_draw", "instant_power_draw")


def domains(gpus: Sequence[Node], uuids: Sequence[str]) -> DomainColumns | None:
    """Domains of every GPU whose module or memory has a draw of its own; None when no GPU has."""
    rows: list[dict[str, Any]] = []
    for index, (gpu, uuid) in enumerate(zip(gpus, uuids, strict=False)):
        rows += _of_gpu(gpu, uuid, f"gpu-{index}")
    if not rows:
        return None
    columns: dict[str, Any] = {name: tuple(row.get(name) for row in rows) for name in DomainColumns.__struct_fields__}
    known = {n: c for n, c in columns.items() if any(value is not None for value in c)}
    return DomainColumns(**known)


def _of_gpu(gpu: Node, uuid: str, name: str) -> list[dict[str, Any]]:
    module, memory = _watts(gpu, "module_power_readings"), _watts(gpu, "gpu_memory_power_readings")
    if module is None and memory is None:
        return []
    shared = {"source": _SOURCE, "quality": "measured", "gpu_uuid": uuid}
    rows: list[dict[str, Any]] = []
    if module is not None:
        limits = {
            column: _first(gpu, "module_power_readings", element)
            for column, element in (
                ("limit_w", "current_power_limit"),
                ("limit_min_w", "min_power_limit"),
                ("limit_max_w", "max_power_limit"),
            )
        }
        rows.append({"name": f"{name}/module", "kind": "board", "power_w": module, **limits, **shared})
    board = smi_rows.row(gpu)[0].get("power_w")
    parent = f"{name}/module" if module is not None else None
    rows.append({"name": name, "kind": "gpu", "parent": parent, "power_w": board, **shared})
    if memory is not None:
        rows.append({"name": f"{name}/memory", "kind": "dram", "parent": name, "power_w": memory, **shared})
    return rows


def _watts(gpu: Node, section: str) -> float | None:
    return next((w for draw in _DRAWS if (w := _first(gpu, section, draw)) is not None), None)


def _first(gpu: Node, section: str, element: str) -> float | None:
    text = gpu.value(section, element)
    return None if text is None else smi_rows.number(text, "module_w")[0]


def fans(gpus: Sequence[Node]) -> SensorColumns | None:
    """Fan speeds in percent of each GPU that has fans."""
    found = [
        (f"gpu-{index}/fan", value)
        for index, gpu in enumerate(gpus)
        if (value := smi_rows.number(gpu.value("fan_speed") or "", "percent")[0]) is not None
    ]
    if not found:
        return None
    size = len(found)
    return SensorColumns(
        name=tuple(name for name, _ in found),
        kind=("fan",) * size,
        unit=("percent",) * size,
        source=(_SOURCE,) * size,
        value=tuple(value for _, value in found),
    )
