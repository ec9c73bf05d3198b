"""What an nvidia-smi tree means: elements of every driver generation to columns, texts to numbers in our units. Pure.

Drivers renamed and moved the power elements twice; the same name stands under the GPU, its memory and its module, so a
value is only ever taken by its path. A text that is no number is null, and is the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from agents.node.sources.clean import printable
from agents.node.sources.dcgm_fields import MAX_BOARD_W
from agents.node.sources.smi_tree import Node

_NUMBER: Final = re.compile(r"^\[?\s*([+-]?[0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-zA-Z%µ°]*)\s*\]?$")
_UNITS: Final[dict[str, dict[str, float]]] = {
    "w": {"": 1.0, "w": 1.0, "mw": 1e-3, "kw": 1e3},
    "mb": {
        "": 1.048576, "mib": 1.048576, "gib": 1073.741824, "kib": 1.024e-3, "tib": 1099511.627776,
        "mb": 1.0, "gb": 1e3, "kb": 1e-3, "b": 1e-6, "bytes": 1e-6,
    },
    "mhz": {"": 1.0, "mhz": 1.0, "ghz": 1e3, "khz": 1e-3, "hz": 1e-6},
    "c": {"": 1.0, "c": 1.0, "°c": 1.0},
    "ratio": {"": 0.01, "%": 0.01},
    "percent": {"": 1.0, "%": 1.0},
}  # fmt: skip
_BOUNDS: Final = {
    "w": (0.0, MAX_BOARD_W),
    "module_w": (0.0, 4 * MAX_BOARD_W),
    "mb": (0.0, 1e8),
    "mhz": (0.0, 10_000.0),
    "c": (-60.0, 200.0),
    "ratio": (0.0, 1.0),
}
_POWER: Final = ("gpu_power_readings", "power_readings")
_REASONS: Final = ("clocks_event_reasons", "clocks_throttle_reasons")


def _power(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((section, name) for name in names for section in _POWER)


def _limit(*names: str) -> tuple[tuple[str, ...], ...]:
    """Drivers from 615 on repeat the limits under a ceiling of their own."""
    return (*_power(*names), *(("gpu_power_readings", "gpu_ceiling_power_limit", name) for name in names))


# column -> (kind of unit, paths in order of preference)
PATHS: Final[dict[str, tuple[str, tuple[tuple[str, ...], ...]]]] = {
    "power_w": ("w", _power("average_power_draw", "power_draw")),
    "power_instant_w": ("w", _power("instant_power_draw")),
    "limit_w": ("w", _limit("current_power_limit", "enforced_power_limit")),
    "limit_requested_w": ("w", _limit("requested_power_limit", "power_limit")),
    "limit_default_w": ("w", _limit("default_power_limit")),
    "limit_min_w": ("w", _power("min_power_limit")),
    "limit_max_w": ("w", _power("max_power_limit")),
    "sm_mhz": ("mhz", (("clocks", "sm_clock"),)),
    "sm_max_mhz": ("mhz", (("max_clocks", "sm_clock"),)),
    "mem_mhz": ("mhz", (("clocks", "mem_clock"), ("clocks", "memory_util"))),
    "util_ratio": ("ratio", (("utilization", "gpu_util"),)),
    "mem_util_ratio": ("ratio", (("utilization", "memory_util"),)),
    "mem_used_mb": ("mb", (("fb_memory_usage", "used"),)),
    "mem_total_mb": ("mb", (("fb_memory_usage", "total"),)),
    "temp_c": ("c", (("temperature", "gpu_temp"),)),
    "mem_temp_c": ("c", (("temperature", "memory_temp"),)),
}
WHOLE: Final = frozenset({"sm_mhz", "sm_max_mhz", "mem_mhz"})
# Ending of an element's name -> NVML's bit (nvmlClocksEventReasons).
_BITS: Final = {
    "gpu_idle": 0x1, "applications_clocks_setting": 0x2, "sw_power_cap": 0x4, "hw_slowdown": 0x8, "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20, "hw_thermal_slowdown": 0x40, "hw_power_brake_slowdown": 0x80,
    "display_clocks_setting": 0x100,
    "idle": 0x1, "display_clock_setting": 0x100,
}  # fmt: skip


def number(text: str, kind: str) -> tuple[float | None, str | None]:
    """(value in our unit, None) or (None, why not)."""
    match = _NUMBER.match(text)
    # The plain table glues unit and number; the query leaves a space: both match.
    if match is None:
        return None, f"nvidia-smi says {text[:80]!r}" if text else "nvidia-smi leaves it empty"
    factor = _UNITS["w" if kind == "module_w" else kind].get(match[2].lower())
    if factor is None:
        return None, f"{text[:80]!r} is in no unit that is known here"
    value = float(match[1]) * factor
    low, high = _BOUNDS.get(kind, (float("-inf"), float("inf")))
    if low <= value <= high:
        return value, None
    return None, f"{text[:80]!r} is no plausible value"


def row(gpu: Node) -> tuple[dict[str, Any], dict[str, str]]:
    """(columns of one GPU, column -> reason why it is missing or doubtful)."""
    out: dict[str, Any] = {"name": _said(gpu.value("product_name"))}
    why: dict[str, str] = {}
    for column, (kind, paths) in PATHS.items():
        value, reason = _first(gpu, kind, paths)
        if value is not None:
            out[column] = round(value) if column in WHOLE else value
        else:
            why[column] = reason or "this driver's nvidia-smi does not print it"
    out["throttle"], reason = _throttle(gpu)
    if reason is not None:
        why["throttle"] = reason
    _repair_power(out, why, gpu)
    why.setdefault("energy_mj", "nvidia-smi prints no energy counter")
    return out, why


def _first(gpu: Node, kind: str, paths: tuple[tuple[str, ...], ...]) -> tuple[float | None, str | None]:
    """The first path that holds a number; else the reason of the first that is there at all."""
    reason = None
    for path in paths:
        text = gpu.value(*path)
        if text is not None:
            value, why = number(text, kind)
            if value is not None:
                return value, None
            reason = reason or why
    return None, reason


def _repair_power(out: dict[str, Any], why: dict[str, str], gpu: Node) -> None:
    """Watts that are milliwatts, and boards that know only one of the two draws."""
    texts = {
        c: next((t for p in PATHS[c][1] if (t := gpu.value(*p)) is not None), None)
        for c in ("power_w", "power_instant_w")
    }
    limit = out.get("limit_max_w") or out.get("limit_w")
    for column, text in texts.items():
        match = _NUMBER.match(text or "")
        if (
            match is None
            or match[2].lower() not in {"", "w"}
            or (value := float(match[1])) <= (3 * limit if limit else MAX_BOARD_W)
        ):
            continue
        milli = value / 1000
        if milli <= (limit or MAX_BOARD_W):
            out[column], why[column] = (
                milli,
                f"warning: {text!r} is far above what this board can draw: read as milliwatts",
            )
        else:
            out.pop(column, None)
            why[column] = f"{text!r} is no plausible value"
    if out.get("power_w") is None and out.get("power_instant_w") is not None:
        out["power_w"] = out["power_instant_w"]
        why["power_w"] = "warning: this board has no averaged draw; this is the instant one"


def _throttle(gpu: Node) -> tuple[int | None, str | None]:
    section = next((found for name in _REASONS if (found := gpu.find(name)) is not None), None)
    if section is None:
        return None, "this driver's nvidia-smi does not print it"
    mask, known, nameless = 0, False, []
    for child in _all(section):  # the text form nests the causes of a slowdown under it
        bit = _bit(child.tag)
        text = child.text.strip().lower()
        if bit is None and text == "active":
            nameless.append(child.tag)
        if bit is None or text not in {"active", "not active"}:
            continue
        known = True
        mask |= bit if text == "active" else 0
    if not known:
        return None, f"nvidia-smi says {section.text.strip()[:80]!r}"
    return mask, f"warning: {nameless[0]} is active and has no bit in NVML's mask" if nameless else None


def _bit(tag: str) -> int | None:
    for prefix in ("clocks_event_reason_", "clocks_throttle_reason_"):
        tag = tag.removeprefix(prefix)
    return _BITS.get(tag)


def _said(text: str | None) -> str | None:
    """A name, unless the text says that there is none."""
    said = text and text.strip("[]").upper() not in {"N/A", "UNKNOWN ERROR", "GPU IS LOST", "ERR!"}
    return printable(text) if text and said else None


def lost(gpu: Node) -> bool:
    """Whether any of its elements says that the GPU is lost."""
    return any("gpu is lost" in node.text.lower() for node in _all(gpu))


def _all(node: Node) -> Iterator[Node]:
    """Every element below, in no order."""
    stack = list(node.children)
    while stack:
        found = stack.pop()
        yield found
        stack += found.children


def uuid(gpu: Node) -> str | None:
    """The GPU's UUID as it is printed; None when the text has none."""
    text = _said(gpu.value("uuid"))
    return text if text and text.upper().startswith("GPU-") else None
