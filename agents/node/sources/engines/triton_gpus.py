"""The GPUs that Triton's own text speaks of: watts, joules, limit, use and memory, by UUID. Pure.

Triton asks NVML itself, every two seconds by default, and counts energy from its own start: its counter falls when the
server starts again. Its words for units are not believed where the numbers cannot be what they say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

from agents.node.sources import units
from agents.node.sources.clean import printable
from agents.node.sources.dcgm_fields import MAX_BOARD_W, MAX_ENERGY_MJ, OVERSHOOT, Field
from agents.node.sources.prom_text import Sample
from streams.contract.records import GpuColumns, GpuState

MAX_GPUS: Final = 64
_LABELS: Final = ("gpu_uuid", "UUID", "uuid")
# Numbers are ours alone: they only tell fields apart.
FIELDS: Final = (
    Field(1, "power_w", ("nv_gpu_power_usage",), high=MAX_BOARD_W),
    Field(2, "limit_w", ("nv_gpu_power_limit",), high=MAX_BOARD_W),
    Field(3, "energy_mj", ("nv_energy_consumption",), 1e3, high=MAX_ENERGY_MJ, whole=True),
    Field(4, "util_ratio", ("nv_gpu_utilization",), high=1.0),
    Field(5, "mem_total_mb", ("nv_gpu_memory_total_bytes",), 1e-6, high=1e8),
    Field(6, "mem_used_mb", ("nv_gpu_memory_used_bytes",), 1e-6, high=1e8),
)
NAMES: Final = tuple(field.names[0].removeprefix("nv_") for field in FIELDS)


def columns(samples: Sequence[Sample]) -> tuple[GpuColumns | None, dict[str, str]]:
    """(GPU columns, part -> reason of what is missing or doubtful); None when no series names a GPU."""
    found: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        name = sample.name.replace(":", "_")
        uuid = next((printable(sample.labels[label].strip(), 80) for label in _LABELS if label in sample.labels), "")
        if uuid and name.startswith(("nv_gpu_", "nv_energy_")) and (uuid in found or len(found) < MAX_GPUS):
            found.setdefault(uuid, {}).setdefault(name.removesuffix("_total"), []).append(sample.value)
    rows = {uuid: dict[str, Any]() for uuid, given in found.items() if any(f.names[0] in given for f in FIELDS)}
    missing: dict[str, str] = {}
    for field in FIELDS:
        _column(field, {uuid: found[uuid].get(field.names[0], []) for uuid in rows}, rows, missing)
    _milliwatts(rows, missing)
    if not rows:
        return None, {}
    out = {
        field.column: tuple(row.get(field.column) for row in rows.values())
        for field in FIELDS
        if any(row.get(field.column) is not None for row in rows.values())
    }
    states: tuple[GpuState, ...] = tuple("ok" for _ in rows)
    return GpuColumns(uuid=tuple(rows), state=states, **out), missing


def _column(
    field: Field, given: Mapping[str, list[float]], rows: dict[str, dict[str, Any]], missing: dict[str, str]
) -> None:
    """One metric of every GPU: its unit by the size of all values together, then each value by what a GPU can have."""
    values = [v for found in given.values() for v in found if math.isfinite(v)]
    if not values:
        missing[f"gpus.{field.column}"] = f"the text has no usable value of {field.names[0]}"
        return
    factor, warning = _scaled(field, values)
    if warning is not None:
        missing[f"gpus.{field.column}"] = f"warning: {warning}"
    for uuid, found in given.items():
        value, reason = _value(field, found, factor)
        if value is None:
            missing.setdefault(f"gpus[{uuid}].{field.column}", reason)
        else:
            rows[uuid][field.column] = value


def _scaled(field: Field, values: Sequence[float]) -> tuple[float, str | None]:
    """Factor and warning. Use is a share here, and per cent where it is above 1."""
    if field.column == "util_ratio":
        percent = max(values) > OVERSHOOT
        return (0.01, f"{field.names[0]} is above 1: read as per cent") if percent else (1.0, None)
    return units.scale(field, values)


def _value(field: Field, found: Sequence[float], factor: float) -> tuple[float | int | None, str]:
    if not found:
        return None, "the text gives it for other GPUs only"
    if any(value != found[0] for value in found) and all(map(math.isfinite, found)):
        return None, f"{len(found)} series of this GPU disagree ({min(found):g} to {max(found):g})"
    scaled = found[0] * factor
    if field.column == "util_ratio" and 1.0 < scaled <= OVERSHOOT:
        scaled = 1.0
    if factor == 0.0 or not math.isfinite(scaled) or not field.low <= scaled <= field.high:
        return None, f"{found[0]:g} is no plausible value of {field.names[0]}"
    return (round(scaled) if field.whole else scaled), ""


def _milliwatts(rows: Mapping[str, dict[str, Any]], missing: dict[str, str]) -> None:
    """Milliwatts of an idle board look like watts of a busy one; its limit tells them apart."""
    power = [row.get("power_w") for row in rows.values()]
    if "gpus.power_w" in missing or not units.power_against_limit(power, [row.get("limit_w") for row in rows.values()]):
        return
    seen = median(value for value in power if value)
    missing["gpus.power_w"] = f"warning: {seen:g} is far above the boards' limits: read as milliwatts"
    for row in rows.values():
        row["power_w"] = None if row.get("power_w") is None else row["power_w"] * 1e-3
