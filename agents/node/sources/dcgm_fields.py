"""DCGM's field numbers: which give which column, under which names and in which unit. For both sources.

Numbers stay while names change (4.6 renamed most), so everything is keyed on the number; tests hold the table against
NVIDIA's header. Blank sentinels, plausible bounds and units are decided here and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from streams.contract.records import GpuColumns

INT32_BLANK: Final = 0x7FFFFFF0  # and the 15 above it: not found, not supported, not permitted
INT64_BLANK: Final = 0x7FFFFFFFFFFFFFF0
FP64_BLANK: Final = 140737488355328.0
_BLANK_WORDS: Final = {0: "blank", 1: "not found", 2: "not supported", 3: "not permitted"}
MIB_MB: Final = 1.048576


@dataclass(frozen=True, slots=True)
class Field:
    """One DCGM field.

    Attributes:
        number: DCGM's field id.
        column: the contract's column.
        names: spellings, the present one first.
        factor: the field's unit times this is the column's.
        low, high: what the column can plausibly hold; beyond is no reading.
        whole: the column holds whole numbers.
        real: DCGM gives a double, otherwise an int64.
        slice: a MIG slice has a value of its own; otherwise what stands under a slice is the board's, repeated.
        rank: of several fields of a column the lowest rank that has a value is taken.
    """

    number: int
    column: str
    names: tuple[str, ...]
    factor: float = 1.0
    low: float = 0.0
    high: float = math.inf
    whole: bool = False
    real: bool = True
    slice: bool = False
    rank: int = 0


def _watts(number: int, column: str, *names: str) -> Field:
    return Field(number, column, names, high=MAX_BOARD_W)


def _ratio(number: int, column: str, *names: str) -> Field:
    return Field(number, column, names, high=1.0, slice=True)


def _mhz(number: int, column: str, *names: str, hertz: bool = False) -> Field:
    """The fields in hertz are new in 4.6 and come after those in MHz that everybody has."""
    factor = 1e-6 if hertz else 1.0
    return Field(number, column, names, factor, high=10_000, whole=True, real=False, rank=int(hertz))


MAX_BOARD_W: Final = 5000.0  # the largest GPUs announced draw 3600 W
OVERSHOOT: Final = 1.02  # counters and clock are not sampled at one moment: a busy GPU's ratio is 1.00002 at times
MAX_ENERGY_MJ: Final = 1e15  # a megawatt for 31 years: above it a number is no energy of one board

FIELDS: Final[tuple[Field, ...]] = (
    _watts(155, "power_w", "DCGM_FI_DEV_BOARD_POWER_WATTS", "DCGM_FI_DEV_POWER_USAGE", "dcgm_power_usage"),
    Field(
        156,
        "energy_mj",
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "dcgm_total_energy_consumption"),
        high=MAX_ENERGY_MJ,
        whole=True,
        real=False,
    ),
    Field(1611, "energy_mj", ("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL",), 1000.0, high=MAX_ENERGY_MJ, whole=True, rank=1),
    _watts(157, "power_instant_w", "DCGM_FI_DEV_BOARD_POWER_RAW_WATTS", "DCGM_FI_DEV_POWER_USAGE_INSTANT"),
    _watts(160, "limit_requested_w", "DCGM_FI_DEV_BOARD_POWER_LIMIT_REQUESTED_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT"),
    _watts(161, "limit_min_w", "DCGM_FI_DEV_BOARD_POWER_LIMIT_MIN_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT_MIN"),
    _watts(162, "limit_max_w", "DCGM_FI_DEV_BOARD_POWER_LIMIT_MAX_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX"),
    _watts(163, "limit_default_w", "DCGM_FI_DEV_BOARD_POWER_LIMIT_DEFAULT_WATTS", "DCGM_FI_DEV_POWER_MGMT_LIMIT_DEF"),
    _watts(164, "limit_w", "DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS", "DCGM_FI_DEV_ENFORCED_POWER_LIMIT"),
    _mhz(100, "sm_mhz", "DCGM_FI_DEV_SM_CLOCK", "dcgm_sm_clock"),
    _mhz(1603, "sm_mhz", "DCGM_FI_DEV_SM_CLOCK_HERTZ", hertz=True),
    _mhz(101, "mem_mhz", "DCGM_FI_DEV_MEM_CLOCK", "dcgm_memory_clock"),
    _mhz(1604, "mem_mhz", "DCGM_FI_DEV_MEMORY_CLOCK_HERTZ", hertz=True),
    _mhz(113, "sm_max_mhz", "DCGM_FI_DEV_MAX_SM_CLOCK"),
    _mhz(1608, "sm_max_mhz", "DCGM_FI_DEV_SM_MAX_CLOCK_HERTZ", hertz=True),
    Field(
        112,
        "throttle",
        ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"),
        high=2.0**63 - 1024,
        whole=True,
        real=False,
    ),
    Field(
        150,
        "temp_c",
        ("DCGM_FI_DEV_GPU_TEMP_CELSIUS", "DCGM_FI_DEV_GPU_TEMP", "dcgm_gpu_temp"),
        low=-60,
        high=200,
        real=False,
    ),
    # 0 degrees is how drivers say that this memory has no sensor.
    Field(
        140,
        "mem_temp_c",
        ("DCGM_FI_DEV_MEMORY_TEMP_CELSIUS", "DCGM_FI_DEV_MEMORY_TEMP", "dcgm_memory_temp"),
        low=0.5,
        high=200,
        real=False,
    ),
    Field(
        203,
        "util_ratio",
        ("DCGM_FI_DEV_GPU_UTIL_RATIO", "DCGM_FI_DEV_GPU_UTIL", "dcgm_gpu_utilization"),
        0.01,
        high=1.0,
        real=False,
        slice=True,
    ),
    Field(
        204,
        "mem_util_ratio",
        ("DCGM_FI_DEV_MEM_COPY_UTIL", "dcgm_mem_copy_utilization"),
        0.01,
        high=1.0,
        real=False,
        slice=True,
    ),
    Field(250, "mem_total_mb", ("DCGM_FI_DEV_FB_TOTAL",), MIB_MB, high=1e8, real=False, slice=True),
    Field(251, "mem_free_mb", ("DCGM_FI_DEV_FB_FREE", "dcgm_fb_free"), MIB_MB, high=1e8, real=False, slice=True),
    Field(252, "mem_used_mb", ("DCGM_FI_DEV_FB_USED", "dcgm_fb_used"), MIB_MB, high=1e8, real=False, slice=True),
    Field(253, "mem_reserved_mb", ("DCGM_FI_DEV_FB_RESERVED",), MIB_MB, high=1e8, real=False, slice=True),
    Field(
        230,
        "xid",
        ("DCGM_FI_DEV_XID_ERROR", "DCGM_FI_DEV_XID_ERRORS", "dcgm_xid_errors"),
        high=100_000,
        whole=True,
        real=False,
    ),
    _ratio(1001, "gr_active_ratio", "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"),
    _ratio(1002, "sm_active_ratio", "DCGM_FI_PROF_SM_UTIL_RATIO", "DCGM_FI_PROF_SM_ACTIVE"),
    _ratio(1004, "tensor_active_ratio", "DCGM_FI_PROF_TENSOR_UTIL_RATIO", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"),
    _ratio(1005, "dram_active_ratio", "DCGM_FI_PROF_DRAM_UTIL_RATIO", "DCGM_FI_PROF_DRAM_ACTIVE"),
)
BY_NAME: Final = {name: field for field in FIELDS for name in field.names}
BY_NUMBER: Final = {field.number: field for field in FIELDS}
# Columns that only help to find others.
HELPERS: Final = ("mem_free_mb", "mem_reserved_mb")
COLUMNS: Final = tuple(dict.fromkeys(field.column for field in FIELDS if field.column not in HELPERS))
# capability word -> the column that proves it
CAPABILITY: Final = (
    ("gpu.energy", "energy_mj"),
    ("gpu.power", "power_w"),
    ("gpu.limit", "limit_w"),
    ("gpu.clock", "sm_mhz"),
    ("gpu.utilisation", "util_ratio"),
    ("gpu.memory", "mem_used_mb"),
    ("gpu.temperature", "temp_c"),
    ("gpu.throttle", "throttle"),
    ("gpu.profiling", "sm_active_ratio"),
    ("gpu.xid", "xid"),
    ("gpu.workload", "pod"),
)


def capability(gpu: GpuColumns) -> tuple[str, ...]:
    """What at least one GPU has a value of."""
    return tuple(word for word, column in CAPABILITY if getattr(gpu, column) is not None)


def blank(value: float, *, real: bool) -> str | None:
    """The word for one of DCGM's blank values ("not supported", ...); None for a value.

    A 32-bit blank can be an honest count of a 64-bit counter, so those are asked with `real` or by `blank32`.
    """
    if math.isnan(value):
        return "not a number"
    if value >= INT64_BLANK:
        # A double cannot hold the last digits; exact whole numbers still can.
        return _BLANK_WORDS.get(int(value) - INT64_BLANK, "blank") if isinstance(value, int) else "blank"
    if (real and value >= FP64_BLANK) or FP64_BLANK <= value < FP64_BLANK + 16:
        return _BLANK_WORDS.get(int(value - FP64_BLANK), "blank")
    return None


def blank32(value: float) -> str | None:
    """The same for the blanks of 32-bit values, which gauges may carry and counters may pass."""
    return _BLANK_WORDS.get(int(value) - INT32_BLANK, "blank") if INT32_BLANK <= value <= 0x7FFFFFFF else None


def no_value(field: Field, value: float) -> str | None:
    """The word for a blank of this field, in any of DCGM's widths; None for a value."""
    word = blank(value, real=field.real)
    counts = field.column in {"energy_mj", "throttle"}
    return blank32(value) if word is None and not counts else word


def reading(field: Field, value: float, factor: float | None = None) -> tuple[float | int | None, str | None]:
    """(the column's value, None), or (None, why there is none): blanks and what no board can hold.

    `factor` is for a series that is not in the field's own unit.
    """
    word = no_value(field, value)
    if word is not None:
        return None, f"DCGM answers {word} for field {field.number}"
    scaled = value * (field.factor if factor is None else factor)
    if field.column.endswith("_ratio") and field.high < scaled <= field.high * OVERSHOOT:
        scaled = field.high
    if not field.low <= scaled <= field.high:
        if field.column == "mem_temp_c" and scaled == 0:
            return None, "0 degrees: this memory has no sensor"
        return None, f"{value:g} is no plausible value of {field.names[0]}"
    return (round(scaled) if field.whole else scaled), None
