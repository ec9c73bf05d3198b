"""Equally spaced history of one metric from the archive, for forecasts. Steps without rows are unknown, not zero."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from agents.gateway.archive import ArchiveDoor
from models.forecast.base import Series
from models.forecast.select import needed

DAY_S: Final = 86_400
STEPS_S: Final = (60, 300, 900, 3600)
STEPS_MAX: Final = 168  # of one horizon: a week of hours
BINS_MAX: Final = 4000
SEASONLESS_S: Final = 6 * 3600  # a day's course may be left out for a look this far ahead, not further


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: unit, SQL of its value per minute, the least value that can be."""

    unit: str
    per_minute: str
    minimum: float | None = 0.0


_GPU: Final = (
    "FROM gpu_minute WHERE minute >= since($hours) AND ($all OR uuid IN (SELECT unnest(string_split($only, ','))))"
)
_ENGINE: Final = (
    "FROM engine_minute WHERE minute >= since($hours) AND ($all OR engine IN (SELECT engine FROM gpu_minute WHERE "
    "minute >= since(1) AND uuid IN (SELECT unnest(string_split($only, ',')))))"
)
_COUNTS: Final = "sum(samples) AS samples, sum(simulated_samples) AS simulated"
METRICS: Final[dict[str, Metric]] = {
    "power_w": Metric("W", f"sum(power_w_sum / nullif(power_samples, 0)) AS value, {_COUNTS} {_GPU}"),
    "util_ratio": Metric("0..1", f"sum(util_ratio_sum) / nullif(sum(util_samples), 0) AS value, {_COUNTS} {_GPU}"),
    "tokens_per_s": Metric("1/s", f"sum(generated_tokens) / 60.0 AS value, {_COUNTS} {_ENGINE}"),
    "requests_per_s": Metric("1/s", f"sum(finished_requests) / 60.0 AS value, {_COUNTS} {_ENGINE}"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Step and number of steps of a horizon."""

    step_s: int
    steps: int

    @property
    def hours(self) -> float:
        """How far back history is read: as much as is of use."""
        return BINS_MAX * self.step_s / 3600

    def season(self, count: int) -> int:
        """A day where the history holds enough of them, or where the horizon is too long to leave it out."""
        day = DAY_S // self.step_s
        if count < needed(self.steps, day) and self.step_s * self.steps <= SEASONLESS_S:
            return 1
        return day


@dataclass(frozen=True, slots=True)
class History:
    """Values per step, oldest first; `end_ns` is where the next step begins."""

    values: tuple[float | None, ...]
    step_s: float
    end_ns: int
    made_from: dict[str, Any]

    def series(self, plan: Plan) -> Series:
        return Series(self.values, self.step_s, plan.season(len(self.values)))


def horizon_of(hours: float) -> Plan:
    """The finest step that covers the horizon in few enough steps."""
    seconds = hours * 3600
    step_s = next(step for step in STEPS_S if seconds / step <= 96 or step == STEPS_S[-1])
    return Plan(step_s, max(1, min(STEPS_MAX, ceil(seconds / step_s - 1e-9))))


async def read_history(archive: ArchiveDoor, metric: str, plan: Plan, only: Collection[str] | None) -> History:
    """The metric's mean per step; the step that still runs is left out."""
    sql = f"""
    WITH minutes AS (SELECT minute, {METRICS[metric].per_minute} GROUP BY minute)
    SELECT (epoch(minute) // $step)::BIGINT AS bin, avg(value) AS value, sum(samples)::DOUBLE AS samples,
        sum(simulated)::DOUBLE AS simulated
    FROM minutes
    WHERE minute < to_timestamp(epoch(since(0)) // $step * $step)
    GROUP BY bin ORDER BY bin
    """
    params: dict[str, str | int | float] = {
        "hours": plan.hours,
        "step": plan.step_s,
        "all": int(only is None),
        "only": ",".join(sorted(only or ())),
    }
    found = await archive.ask(sql, params, limit_rows=BINS_MAX + 8)
    rows = found.rows[-BINS_MAX:]
    if not rows:
        return History((), plan.step_s, 0, {"quality": None, "shares": {}})
    first, last = int(rows[0][0]), int(rows[-1][0])
    by_bin = {int(row[0]): row[1] for row in rows}
    values = tuple(by_bin.get(number) for number in range(first, last + 1))
    return History(values, plan.step_s, (last + 1) * plan.step_s * 10**9, _made_from(rows))


def _made_from(rows: Collection[tuple[Any, ...]]) -> dict[str, Any]:
    samples, simulated = sum(row[2] or 0.0 for row in rows), sum(row[3] or 0.0 for row in rows)
    if not samples:
        return {"quality": None, "shares": {}}
    share = simulated / samples
    kinds = {"measured": 1.0 - share, "simulated": share}
    kinds = {kind: value for kind, value in kinds.items() if value > 0}
    return {"quality": next(iter(kinds)) if len(kinds) == 1 else "mixed", "shares": kinds}
