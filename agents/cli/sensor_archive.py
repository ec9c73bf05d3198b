"""Recordings of power sensors in a folder: readings, a meter's trace and load edges, told apart by name and columns.

Parquet and CSV, as nvidia-smi, a power meter or this project write them. Values may carry their unit ("46.19 W"); what
is no number is unknown. Files of one run share their name but for the word that says what they hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from agents.cli.base import EoError
from models.sensors.bounds import check_power
from models.sensors.boxcar import Reference
from models.sensors.types import Floats

ENDINGS: Final = (".parquet", ".csv")
MAX_FILE_BYTES: Final = 200 * 10**6
ROLE: Final = re.compile(
    r"[_-]*(external[_-]?meter|meter|pmd[_-]?data|pmd|nvidia[_-]?smi(?:[_-]raw)?|kernel[_-]?timestamps(?:[_-][mun]?s)?|"
    r"load[_-]?edges|edges|sensor|readings|telemetry)$",
    re.I,
)
METER: Final = re.compile(r"meter|pmd|external|reference", re.I)
EDGES: Final = re.compile(r"timestamps|edges", re.I)
ZONE_S: Final = 900.0  # clocks of two files may differ by a time zone: whole quarters of an hour
ZONES: Final = 14 * 4
FASTEST_S: Final = 0.002  # a trace faster than this is a meter's, not a GPU sensor's
MOST_W, MOST_J = 1e7, 1e15  # no number beyond is a power or a counter of anything; what is below is judged by `bounds`
NUMBER: Final = re.compile(r"[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One recorded run; parts that the folder does not have are None."""

    name: str
    board: str
    time_s: Floats
    power_w: Floats
    busy_ratio: Floats | None = None
    counter_j: Floats | None = None
    meter: Reference | None = None
    edge_s: Floats | None = None
    notes: tuple[str, ...] = field(default=())


def load(folder: Path) -> list[Run]:
    """Every run in a folder with readings of a sensor, by name. Raises EoError when there is none."""
    if not folder.is_dir():
        raise EoError(f"{folder} is no folder; give one with recordings, e.g. --archive tests/data/gpu_sensor")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    parts: dict[str, dict[str, tuple[Any, ...]]] = {}
    problems = []
    for path in files:
        try:
            role, values = _part(path)
        except (ValueError, TypeError, ArithmeticError, OSError, LookupError) as error:
            problems.append(f"{path.name}: {error}")
            continue
        parts.setdefault(ROLE.sub("", path.stem), {})[role] = values
    runs = [_run(name, found) for name, found in sorted(parts.items()) if "sensor" in found]
    if not runs:
        why = f" ({'; '.join(problems)})" if problems else ""
        raise EoError(f"no readings of a power sensor among {len(files)} Parquet and CSV files in {folder}{why}.")
    return runs


def _run(name: str, parts: dict[str, tuple[Any, ...]]) -> Run:
    time_s, power_w, busy, counter = parts["sensor"]
    notes: list[str] = []
    if (warning := check_power(float(np.nanmedian(power_w))).warning) is not None:
        notes.append(f"its median power: {warning.rstrip('.')}; its figures here are as recorded")
    meter, edges = None, None
    if "meter" in parts:
        shift_s = _shift(time_s, parts["meter"][0])
        if shift_s is None:
            notes.append("its meter and its readings have no time in common: the meter is left out")
        else:
            if shift_s:
                notes.append(f"the readings' clock is {shift_s / 3600:+g} h from the meter's: taken as a time zone")
            time_s = time_s - shift_s
            meter = Reference(*parts["meter"])
    if "edges" in parts:
        found = parts["edges"][0]
        edges = found[(found >= time_s[0]) & (found <= time_s[-1])]
    return Run(
        name=name,
        board=re.split(r"[_-]", name)[0],
        time_s=time_s,
        power_w=power_w,
        busy_ratio=busy,
        counter_j=counter,
        meter=meter,
        edge_s=edges if edges is not None and len(edges) > 1 else None,
        notes=tuple(notes),
    )


def _shift(time_s: Floats, meter_s: Floats) -> float | None:
    """Quarters of an hour by which the readings' clock runs ahead; None when no time zone makes them overlap.

    The smallest shift that gives nine tenths of the best overlap: a time zone is not guessed where none is needed.
    """
    found = []
    for quarters in sorted(range(-ZONES, ZONES + 1), key=abs):
        shift = quarters * ZONE_S
        common = min(time_s[-1] - shift, meter_s[-1]) - max(time_s[0] - shift, meter_s[0])
        if common > 0:
            found.append((shift, float(common)))
    best = max((common for _, common in found), default=0.0)
    return next((shift for shift, common in found if common >= 0.9 * best), None)


# --- one file --------------------------------------------------------------------------------------------------------


def _part(path: Path) -> tuple[str, tuple[Any, ...]]:
    """(role, values) of a file; raises ValueError with what it lacks."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    table = _table(path)
    names = list(table)
    time_name = next((name for name in names if re.search(r"time|^t[_\[ ]|^t$|date", name, re.I)), None)
    if time_name is None:
        raise ValueError(f"no column of time among {', '.join(names)}")
    time_s = _seconds(table[time_name], time_name + path.stem if len(names) == 1 else time_name)
    if len(names) == 1 and EDGES.search(path.stem):
        return "edges", (np.unique(time_s[np.isfinite(time_s)]),)
    power = _power(table)
    keep = np.isfinite(time_s)
    order = np.argsort(time_s[keep], kind="stable")
    time_s, power_w = time_s[keep][order], power[keep][order]
    if np.isfinite(power_w).sum() < 2:
        raise ValueError("fewer than two usable power values")
    if METER.search(path.stem) or float(np.median(np.diff(time_s))) < FASTEST_S:
        return "meter", (time_s, power_w)
    busy, counter = _busy(table), _counter(table)
    return "sensor", (
        time_s,
        power_w,
        None if busy is None else busy[keep][order],
        None if counter is None else counter[keep][order],
    )


def _table(path: Path) -> dict[str, Any]:
    import pyarrow
    from pyarrow import csv, parquet

    try:
        table = parquet.read_table(path) if path.suffix.lower() == ".parquet" else csv.read_csv(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"cannot be read ({str(error).splitlines()[0]})") from error
    return {name.strip(): table.column(n).combine_chunks() for n, name in enumerate(table.column_names)}


def _seconds(column: Any, name: str) -> Floats:
    """Unix seconds; a unit in the name, else by magnitude."""
    values = np.asarray(column.to_numpy(zero_copy_only=False))
    if values.dtype.kind == "O":
        values = np.array([_instant(value) for value in values])
    if values.dtype.kind == "M":
        return np.where(np.isnat(values), np.nan, values.astype("datetime64[ns]").astype(np.int64) / 1e9)
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).any():
        raise ValueError(f"no usable value in the column of time {name!r}")
    ending = re.search(r"[_\[ ](ns|us|ms|s)\]?$", name, re.I)
    if ending:
        return numbers / {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}[ending[1].lower()]
    typical = float(np.nanmedian(np.abs(numbers)))
    scale = next((scale for limit, scale in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)) if typical > limit), 1.0)
    return numbers / scale


def _instant(value: object) -> np.datetime64:
    text = str(value).strip().replace("/", "-").replace(" ", "T")
    try:
        return np.datetime64(text.removesuffix("Z"), "ns")
    except ValueError:
        return np.datetime64("NaT", "ns")


def _power(table: dict[str, Any]) -> Floats:
    """The power column in watts: the averaged reading before the instant one, never a limit."""
    found = [
        name
        for name in table
        if re.search(r"power|watt|[_\[ ]m?w\]?$", name, re.I) and not re.search(r"limit|state|management", name, re.I)
    ]
    if not found:
        raise ValueError(f"no column of power among {', '.join(table)}")
    found.sort(key=lambda name: ("instant" in name.lower(), "total" not in name.lower()))
    watts = _numbers(table[found[0]]) * (1e-3 if re.search(r"[_\[ ]mw\]?$|milliwatt", found[0], re.I) else 1.0)
    return np.where((watts >= 0) & (watts <= MOST_W), watts, np.nan)


def _busy(table: dict[str, Any]) -> Floats | None:
    """The GPU's busy ratio, 0 to 1; memory's is another."""
    found = [name for name in table if re.search(r"util", name, re.I) and not re.search(r"mem", name, re.I)]
    if not found:
        return None
    values = _numbers(table[found[0]])
    per_cent = not re.search(r"ratio", found[0], re.I)
    return values / 100.0 if per_cent else values


def _counter(table: dict[str, Any]) -> Floats | None:
    """The energy counter in joules."""
    found = [name for name in table if re.search(r"energy|joule", name, re.I)]
    if not found:
        return None
    scale = next(
        (s for word, s in (("mj", 1e-3), ("uj", 1e-6)) if re.search(rf"[_\[ ]{word}\]?$", found[0], re.I)), 1.0
    )
    joules = _numbers(table[found[0]]) * scale
    return np.where((joules >= 0) & (joules <= MOST_J), joules, np.nan)


def _numbers(column: Any) -> Floats:
    values: Sequence[Any] = column.to_pylist()
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    if value is None or isinstance(value, bool):
        return float("nan")
    if isinstance(value, int | float):
        return float(value)
    found = NUMBER.match(str(value).strip())
    return float(found[0]) if found else float("nan")
