"""What the demo's training jobs chose, and what it cost and saved: counted from the topic of telemetry.

Every figure is the job's own: steps at its choice against steps at its default. Records in which settings were tried
are in neither. Nothing here is real hardware, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import duckdb

LEAST: Final = 10  # records at either, below which nothing is said
TRIMMED: Final = 0.1  # of the records, at each end
SURE: Final = 1.96  # standard errors of a 95 % interval
# A demo is watched for minutes: its job's run is so long that 5 % of it are four comparisons, about three minutes.
RUN_STEPS: Final = 11_000
STEP_S: Final = 0.34


class _Histogram(msgspec.Struct):
    count: list[int] = []
    sum_ms: float = 0.0


class _Control(msgspec.Struct):
    state: str = ""


class _Engine(msgspec.Struct):
    engine: str
    kind: str
    gpu_uuid: list[str]
    e2e: _Histogram | None = None
    control: _Control | None = None


class _Gpus(msgspec.Struct):
    uuid: list[str]
    power_w: list[float | None] | None = None
    sm_lock_mhz: list[int | None] | None = None
    limit_w: list[float | None] | None = None
    limit_default_w: list[float | None] | None = None


class _Record(msgspec.Struct):
    boot_id: str
    seq: int
    ts_ns: int
    gpu: _Gpus | None = None
    engines: list[_Engine] = []


@dataclass(slots=True)
class _Arm:
    """Seconds and joules of a step, one figure a record."""

    step_s: list[float] = field(default_factory=list)
    step_j: list[float] = field(default_factory=list)
    steps: int = 0


@dataclass(slots=True)
class _Job:
    default: _Arm = field(default_factory=_Arm)
    chosen: _Arm = field(default_factory=_Arm)
    setting: tuple[int | None, float | None] = (None, None)
    before: tuple[int | None, float | None] | None = None
    began_ns: int = 0
    chosen_ns: int | None = None


def count(values: Iterable[bytes | None], held: Collection[str] = ()) -> list[dict[str, Any]]:
    """One row per training job; unknown is null. `held`: engines of the hold-out, which nothing is granted to."""
    decoder, jobs, seen = msgspec.json.Decoder(_Record), dict[str, _Job](), set[tuple[str, int]]()
    for value in values:
        if value is None or b'"kind":"training"' not in value:
            continue
        record = decoder.decode(value)
        if record.gpu is None or (record.boot_id, record.seq) in seen:
            continue
        seen.add((record.boot_id, record.seq))
        for engine in record.engines:
            if engine.kind == "training":
                _take(jobs.setdefault(engine.engine, _Job(began_ns=record.ts_ns)), engine, record.gpu, record.ts_ns)
    return [_row(name, job) | {"held_out": name in held} for name, job in sorted(jobs.items())]


def held_out(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """Engines that an envelope flags as hold-out."""
    rows = connection.execute("SELECT DISTINCT engine FROM power_desired WHERE holdout AND engine IS NOT NULL")
    return {engine for (engine,) in rows.fetchall()}


def _take(job: _Job, engine: _Engine, gpu: _Gpus, ts_ns: int) -> None:
    rows = [gpu.uuid.index(uuid) for uuid in engine.gpu_uuid if uuid in gpu.uuid]
    setting, before = _setting(gpu, rows), job.before
    job.before = setting
    watts = [gpu.power_w[row] for row in rows] if gpu.power_w else []
    known = [one for one in watts if one is not None]
    steps = sum(engine.e2e.count) if engine.e2e is not None else 0
    if engine.e2e is None or steps == 0 or setting != before or len(known) < len(rows) or not known:
        return  # of a record in which the setting changed, neither is sure
    chosen = engine.control is not None and engine.control.state == "chosen"
    if chosen != (setting != (None, None)):
        return  # a setting that is tried
    arm = job.chosen if chosen else job.default
    step_s = engine.e2e.sum_ms / steps / 1e3
    arm.step_s.append(step_s)
    arm.step_j.append(step_s * sum(known))
    arm.steps += steps
    if chosen:
        job.setting = setting
        job.chosen_ns = job.chosen_ns or ts_ns


def _setting(gpu: _Gpus, rows: list[int]) -> tuple[int | None, float | None]:
    """Lowest lock and lowest limit below its default; None = none of either."""
    locks = [gpu.sm_lock_mhz[row] for row in rows] if gpu.sm_lock_mhz else []
    limits = [
        limit
        for row in rows
        if gpu.limit_w and gpu.limit_default_w
        for limit, own in [(gpu.limit_w[row], gpu.limit_default_w[row])]
        if limit is not None and own is not None and limit < own
    ]
    return min((one for one in locks if one is not None), default=None), min(limits, default=None)


def _row(name: str, job: _Job) -> dict[str, Any]:
    enough = min(len(job.default.step_s), len(job.chosen.step_s)) >= LEAST
    slowdown = _ratio(job.chosen.step_s, job.default.step_s) if enough else None
    energy = _ratio(job.chosen.step_j, job.default.step_j) if enough else None
    return {
        "job": name,
        "simulated": True,
        "sm_mhz": job.setting[0],
        "limit_w": job.setting[1],
        "chosen_after_s": None if job.chosen_ns is None else round((job.chosen_ns - job.began_ns) / 1e9, 1),
        "default_steps": job.default.steps,
        "chosen_steps": job.chosen.steps,
        "slowdown_ratio": None if slowdown is None else round(slowdown[0] - 1.0, 4),
        "slowdown_interval": None if slowdown is None else [round(one - 1.0, 4) for one in slowdown[1:]],
        "saving_ratio": None if energy is None else round(1.0 - energy[0], 4),
        "saving_interval": None if energy is None else [round(1.0 - one, 4) for one in (energy[2], energy[1])],
    }


def _ratio(ours: list[float], base: list[float]) -> tuple[float, float, float]:
    """Ratio of two trimmed means and its 95 % interval (delta method)."""
    (mean, error), (base_mean, base_error) = _trimmed(ours), _trimmed(base)
    middle = mean / base_mean
    reach = SURE * sqrt((error / mean) ** 2 + (base_error / base_mean) ** 2)
    return middle, middle * (1.0 - reach), middle * (1.0 + reach)


def _trimmed(values: list[float]) -> tuple[float, float]:
    """Mean without the lowest and the highest tenth (data loading, checkpoints), and its standard error (Yuen)."""
    ordered, n = sorted(values), len(values)
    cut = int(TRIMMED * n)
    kept = ordered[cut : n - cut]
    pulled = [min(max(one, kept[0]), kept[-1]) for one in ordered]
    mean = sum(pulled) / n
    spread = sqrt(sum((one - mean) ** 2 for one in pulled) / (n - 1))
    return sum(kept) / len(kept), spread * sqrt(n) / len(kept)


def sentence(row: dict[str, Any]) -> str:
    """A row for a person."""
    if row["held_out"]:
        return (
            f"{row['job']}: held out for ever, as a share of all is ({row['default_steps']:,} steps at its default); "
            "a demo of other --nodes, or with --training 2, has jobs that are not"
        )
    if row["slowdown_ratio"] is None:
        return (
            f"{row['job']}: nothing chosen yet ({row['default_steps']:,} steps at its default); "
            "a choice takes about three minutes"
        )
    parts = [f"{row['sm_mhz']:,} MHz" if row["sm_mhz"] is not None else ""]
    parts += [f"{row['limit_w']:,.0f} W" if row["limit_w"] is not None else ""]
    low, high = row["slowdown_interval"]
    least, most = row["saving_interval"]
    return (
        f"{row['job']}: {' and '.join(filter(None, parts))} after {row['chosen_after_s']:.0f} s; a step takes "
        f"{row['slowdown_ratio']:+.1%} ({low:+.1%} to {high:+.1%}) and {row['saving_ratio']:.1%} less energy "
        f"({least:.1%} to {most:.1%}) than {row['default_steps']:,} steps at its default"
    )
