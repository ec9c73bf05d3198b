"""Columns of a recorded sweep, whatever they are called, to sweeps of one knob: power limit, clock or batch size.

Known names are those of the public sets (Zeus, Perseus, ML.ENERGY) with and without units; everything that is neither
the knob nor a measurement tells workloads apart. What cannot be used is counted with its reason, never dropped in
silence. Values in, values out: files are read elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.twin.fit_jobs import Sweep

Array = NDArray[np.float64]
Columns = Mapping[str, Sequence[Any]]

LIMIT, CLOCK, BATCH = "limit_w", "clock_mhz", "batch"
_WATTS: Final = r"(_w|_watts?|_mw|_kw|_milliwatts?)?"
_SECONDS: Final = r"(_s|_secs?|_seconds?|_ms|_us|_min|_minutes?|_h|_hours?)?"
_KNOBS: Final = {
    LIMIT: rf"(gpu_|target_)?(power_)?(limit|cap){_WATTS}|pl|tdp_limit{_WATTS}|power_setting{_WATTS}",
    CLOCK: r"(gpu_|locked_|target_)?(sm_|graphics_|core_|gpu_)?(clock|freq|frequency|lock)(_mhz|_ghz|_hz|_khz)?"
    r"|sm_mhz|clock_lock_mhz",
    BATCH: r"max_batch(_size)?|batch_size|max_num_seqs|batch",
}
_TIMES: Final = (  # of one unit of work first, and only then whatever else is called a time
    rf"(avg_)?(time|iteration_time|time_per_(epoch|step|iteration)|step_time|tpot|itl|batch_latency){_SECONDS}",
    r"(avg_|mean_|median_|total_)?(time|duration|elapsed|runtime|latency|iteration_time|iter_time|epoch_time|step_time|"
    rf"time_per_(epoch|step|iteration|iter|token|batch|image)|tpot|itl|batch_latency){_SECONDS}",
)
_RATE: Final = (
    r"(avg_|mean_)?(throughput|(tokens|samples|images|steps|iterations|iters|its?|requests)_per_s(ec(ond)?)?)"
)
_POWER: Final = rf"(gpu_)?(avg|average|mean)_(gpu_)?power(_draw)?{_WATTS}|(gpu_)?power(_draw)?(_avg|_mean)?{_WATTS}"
_ENERGY: Final = (
    r"(iteration_|total_|gpu_|avg_|mean_)*energy(_per_(epoch|step|iteration|iter|token|image|video|batch))?"
    r"(_j|_joules?|_kj|_mj|_wh|_kwh)?"
)
_BESIDE: Final = (  # measured beside the sweep, or a repetition: no part of a workload's name
    r"(avg_)?batch|tokens_per_s|avg_output_tokens|energy_per_request_j|gpu_power_w|run|seed|target_.*"
    r"|(peak|max|min)_power.*|.*(temp|util|throughput|loss|accuracy|timestamp).*"
)
_GPUS: Final = r"n_gpus|num_gpus|gpus"
_UNITS: Final = {
    "_kwh": 3.6e6,
    "_wh": 3600.0,
    "_kj": 1e3,
    "_mj": 1e-3,
    "_mw": 1e-3,
    "_milliwatt": 1e-3,
    "_milliwatts": 1e-3,
    "_kw": 1e3,
    "_ghz": 1e3,
    "_khz": 1e-3,
    "_hz": 1e-6,
    "_mhz": 1.0,
    "_ms": 1e-3,
    "_us": 1e-6,
    "_min": 60.0,
    "_minute": 60.0,
    "_minutes": 60.0,
    "_h": 3600.0,
    "_hour": 3600.0,
    "_hours": 3600.0,
}  # as NVML has it, mJ are millijoules and mW milliwatts
_MOST: Final = {"limit_w": 10_000.0, "clock_mhz": 10_000.0}  # beyond it a knob without a unit is in mW, in kHz or in Hz
_DEVICE: Final = ("gpu", "device", "hardware", "accelerator")
_STAGE: Final = ("stage", "instruction")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One workload at several settings of one knob, ascending; energy of a step in joules of all GPUs together."""

    name: str
    device: str
    knob: str
    setting: Array
    time_s: Array
    energy_j: Array
    gpus: int = 1
    running: Array | None = None  # batch sweeps: sequences that really ran
    watts: Array | None = None  # per GPU, where it does not follow from energy and time
    stage: tuple[str, ...] = ()

    @property
    def gpu_w(self) -> Array:
        """Watts of one GPU."""
        return self.watts if self.watts is not None else self.energy_j / self.time_s / self.gpus


@dataclass(frozen=True, slots=True)
class Found:
    """What the columns held; `skipped` counts rows and workloads that could not be used, by reason.

    `split_by`: where no workload has two settings, the columns without which there would be one.
    """

    sweeps: list[Recorded]
    skipped: dict[str, int]
    split_by: tuple[str, ...] = ()


class Unreadable(ValueError):
    """The columns are no sweep; the text says what is missing."""


def from_columns(columns: Columns) -> Found:
    """All sweeps in a table."""
    names = {_plain(str(name)): name for name in columns}
    knob, knob_column = _knob(names, columns)
    time_column = _time(names)
    energy_columns, power_column = _energy(names), _match(names, _POWER)
    if not energy_columns and power_column is None:
        raise Unreadable(f"no energy or power among the columns {_list(columns)}; give energy_J or average_power_W")
    gpus_column = _match(names, _GPUS)
    used = {knob_column, time_column, *energy_columns, power_column, gpus_column}
    beside = _BESIDE if knob == CLOCK else f"{_BESIDE}|{_KNOBS[CLOCK]}"  # a clock seen under a limit names no workload
    keys = [
        names[name]
        for name in names
        if names[name] not in used
        and not re.fullmatch(beside, name)
        and not _fractional(columns[names[name]])
        and not _counts(name, columns[names[name]])
    ]
    device = next((names[name] for name in _DEVICE if name in names), None)
    rows = _rows(
        columns, knob_column, _scale(columns, knob, knob_column), time_column, energy_columns, power_column, gpus_column
    )
    return _grouped(columns, rows, keys=keys, device=device, knob=knob, names=names)


def as_sweep(one: Recorded, *, fmax_mhz: float | None = None, limit_w: float | None = None) -> Sweep:
    """The same for a fit of the device: clocks as shares of the highest, limits in watts."""
    count = len(one.setting)
    if one.knob == CLOCK:
        lock_x = one.setting / (fmax_mhz or float(one.setting.max()))
        limits = np.full(count, np.inf if limit_w is None else limit_w)
    else:
        lock_x, limits = np.ones(count), one.setting.copy()
    return Sweep(one.name, one.device, one.knob, one.setting, lock_x, limits, one.time_s, one.gpu_w)


def whole_pipeline(sweeps: Sequence[Recorded]) -> list[Recorded]:
    """Stages of one pipeline added up at each common setting; sweeps without stages pass as they are."""
    groups: dict[str, list[Recorded]] = {}
    for one in sweeps:
        base = one.name.removesuffix(" " + " ".join(one.stage)) if one.stage else one.name
        groups.setdefault(base, []).append(one)
    return [_summed(name, parts) if len(parts) > 1 else parts[0] for name, parts in groups.items()]


def _summed(name: str, parts: list[Recorded]) -> Recorded:
    common = sorted(set.intersection(*(set(one.setting.tolist()) for one in parts)))
    picked = [np.isin(one.setting, common) for one in parts]
    time_s = np.sum([one.time_s[rows] for one, rows in zip(parts, picked, strict=True)], axis=0)
    energy = np.sum([one.energy_j[rows] for one, rows in zip(parts, picked, strict=True)], axis=0)
    return replace(parts[0], name=name, setting=np.array(common), time_s=time_s, energy_j=energy, watts=None, stage=())


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    setting: float
    time_s: float
    energy_j: float
    gpus: int
    problem: str | None


def _rows(
    columns: Columns, knob: str, scale: float, time: str, energy: list[str], power: str | None, gpus: str | None
) -> list[_Row]:
    found = []
    rate = re.fullmatch(_RATE, _plain(time)) is not None
    for index in range(len(columns[time])):
        setting, time_s = scale * _number(columns, knob, index), _number(columns, time, index)
        if rate:
            time_s = 1.0 / time_s if time_s > 0.0 else float("nan")
        count = max(int(_number(columns, gpus, index)), 1) if gpus and _number(columns, gpus, index) >= 1 else 1
        measured = [_number(columns, name, index) for name in energy]
        energy_j = next((value for value in measured if value > 0.0), time_s * _number(columns, power, index) * count)
        good = all(np.isfinite(value) and value > 0.0 for value in (setting, time_s, energy_j))
        found.append(_Row(index, setting, time_s, energy_j, count, None if good else "row without a positive number"))
    return found


def _grouped(
    columns: Columns, rows: list[_Row], *, keys: list[str], device: str | None, knob: str, names: dict[str, str]
) -> Found:
    skipped: dict[str, int] = {}
    groups: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        if row.problem is not None:
            skipped[row.problem] = skipped.get(row.problem, 0) + 1
            continue
        groups.setdefault(tuple(str(columns[key][row.index]) for key in keys), []).append(row)
    stages = [at for at, key in enumerate(keys) if _plain(key) in _STAGE]
    order = [at for at in range(len(keys)) if at not in stages] + stages
    sweeps = []
    for key, members in sorted(groups.items()):
        one = _one_sweep(members, columns, names, knob=knob)
        if len(one.setting) < 2:
            skipped["workload with fewer than two settings"] = (
                skipped.get("workload with fewer than two settings", 0) + 1
            )
            continue
        label = " ".join(key[at] for at in order if key[at] not in ("", "None"))
        where = str(columns[device][members[0].index]) if device else "unknown"
        sweeps.append(replace(one, name=label, device=where, stage=tuple(key[at] for at in stages)))
    return Found(sweeps, skipped, () if sweeps else _split_by(groups, keys))


def _split_by(groups: dict[tuple[str, ...], list[_Row]], keys: list[str]) -> tuple[str, ...]:
    """The fewest columns without which some workload has two settings; those of most values are tried first."""
    order = sorted(range(len(keys)), key=lambda at: -len({key[at] for key in groups}))
    tried = [[at] for at in order] + [order[:count] for count in range(2, len(keys) + 1)]
    return next((tuple(keys[at] for at in sorted(one)) for one in tried if _merges(groups, one)), ())


def _merges(groups: dict[tuple[str, ...], list[_Row]], without: list[int]) -> bool:
    merged: dict[tuple[str, ...], set[float]] = {}
    for key, members in groups.items():
        left = tuple(text for at, text in enumerate(key) if at not in without)
        merged.setdefault(left, set()).update(row.setting for row in members)
    return any(len(settings) > 1 for settings in merged.values())


def _one_sweep(members: list[_Row], columns: Columns, names: dict[str, str], *, knob: str) -> Recorded:
    """Repeated measurements of a setting become their median."""
    settings = sorted({row.setting for row in members})
    at = [[row for row in members if row.setting == setting] for setting in settings]
    running = watts = None
    if knob == BATCH and "avg_batch" in names:
        running = np.array([np.median([_number(columns, names["avg_batch"], r.index) for r in rows]) for rows in at])
    if knob == BATCH and "gpu_power_w" in names:
        watts = np.array([np.median([_watts(columns, names, r.index) for r in rows]) for rows in at])
    return Recorded(
        name="",
        device="",
        knob=knob,
        setting=np.array(settings),
        time_s=np.array([np.median([row.time_s for row in rows]) for rows in at]),
        energy_j=np.array([np.median([row.energy_j for row in rows]) for rows in at]),
        gpus=members[0].gpus,
        running=running,
        watts=watts,
    )


def _watts(columns: Columns, names: dict[str, str], index: int) -> float:
    group = 1.0
    for name in ("tp", "pp"):
        group *= _number(columns, names[name], index) if name in names else 1.0
    return _number(columns, names["gpu_power_w"], index) / group


def _knob(names: dict[str, str], columns: Columns) -> tuple[str, str]:
    """The first knob that is there and was moved: a constant limit beside a clock sweep is no knob."""
    there = [(knob, found) for knob, pattern in _KNOBS.items() if (found := _match(names, pattern)) is not None]
    if not there:
        raise Unreadable(
            f"no power limit, clock or batch size among the columns {_list(names.values())}; "
            "name one power_limit_W, sm_clock_MHz or max_batch"
        )
    moved = [one for one in there if len(set(map(str, columns[one[1]]))) > 1]
    return (moved or there)[0]


def _scale(columns: Columns, knob: str, name: str) -> float:
    """Of a knob whose column names no unit: settings far beyond any device's are milliwatts, kHz or Hz."""
    plain = _plain(name)
    if knob not in _MOST or any(plain.endswith(unit) for unit in (*_UNITS, "_w", "_watt", "_watts")):
        return 1.0
    known = [one for index in range(len(columns[name])) if np.isfinite(one := _number(columns, name, index))]
    middle = float(np.median(known)) if known else 0.0
    if middle <= _MOST[knob]:
        return 1.0
    return 1e-6 if knob == CLOCK and middle > 1e3 * _MOST[knob] else 1e-3


def _time(names: dict[str, str]) -> str:
    for pattern in (*_TIMES, _RATE):
        found = _match(names, pattern)
        if found is not None:
            return found
    return _one(
        names, _TIMES[0], "time (time_per_epoch_s, iteration_time_s, time_s, avg_tpot_s) or rate (tokens_per_s)"
    )


def _energy(names: dict[str, str]) -> list[str]:
    """Energy of one unit of work (the first of them that a row has); per request only where nothing finer is there."""
    for pattern in (_ENERGY, r"energy_per_request(_j|_kj|_mj|_wh)?"):
        found = [names[name] for name in names if re.fullmatch(pattern, name)]
        if found:
            return found
    return []


def _one(names: dict[str, str], pattern: str, what: str) -> str:
    found = _match(names, pattern)
    if found is None:
        raise Unreadable(f"no {what} among the columns {_list(names.values())}; rename the one that holds it")
    return found


def _match(names: dict[str, str], pattern: str) -> str | None:
    return next((names[name] for name in names if re.fullmatch(pattern, name)), None)


def _number(columns: Columns, name: str | None, index: int) -> float:
    """The value in the base unit that its column's name implies; NaN for anything that is no number."""
    if name is None:
        return float("nan")
    text = columns[name][index]
    try:
        value = float(text)
    except (TypeError, ValueError):  # "300.00 W", "1,410 MHz": the unit is that of the column's name
        begins = re.match(r"\s*([-+]?\d[\d,_]*\.?\d*(?:[eE][-+]?\d+)?)\s*[A-Za-z/%]*\s*$", str(text))
        if begins is None:
            return float("nan")
        value = float(re.sub(r"[,_]", "", begins.group(1)))
    plain = _plain(name)
    return value * next((factor for unit, factor in _UNITS.items() if plain.endswith(unit)), 1.0)


def _fractional(values: Sequence[Any]) -> bool:
    """Whether a column holds measured numbers: a workload is named by words and whole numbers."""
    return any(isinstance(value, float) and np.isfinite(value) and value != int(value) for value in values)


def _counts(name: str, values: Sequence[Any]) -> bool:
    """Whether a column only numbers or dates its rows: it would make a workload of each."""
    if re.fullmatch(r"unnamed_.*|index|idx|row|id|no|step|epoch|iteration|date|datetime|time_?stamp.*|.*uuid|", name):
        return True
    numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    return numbers and len(values) > 3 and len(set(values)) == len(values)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def _list(names: Any) -> str:
    return ", ".join(str(name) for name in names) or "(none)"
