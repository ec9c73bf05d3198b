"""The arithmetic of the brake: a row's load and one GPU's line of the signed table in, a ceiling out. Pure values.

Down at once, up slowly and only below a margin; what is unknown counts as the highest load. Nothing here may ever give
more than the lease's own ceiling or less than the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Final

from streams.contract.records import BrakeColumns

MARGIN: Final = 0.03  # of the budget: a step is left only below its share minus this
EASE_S: Final = 5.0  # calm for so long before each rise
EASE: Final = 0.05  # of the range, per rise
EASE_LEAST_W: Final = 1.0


@dataclass(frozen=True, slots=True)
class Table:
    """One GPU's line: (share of the budget, watts) pairs. Their order does not matter, the lowest reached holds."""

    row: str
    budget_w: float
    steps: tuple[tuple[float, float], ...]

    @property
    def deepest_w(self) -> float:
        return min((watts for _, watts in self.steps), default=inf)


def table_of(brake: BrakeColumns | None, index: int) -> Table | None:
    """The line of the envelope's GPU `index`; None where the table has nothing for it."""
    if brake is None:
        return None
    pairs = zip(brake.from_ratio, brake.max_power_w, strict=True)
    steps = tuple((ratio, watts) for ratio, step in pairs if (watts := step[index]) is not None)
    return Table(brake.row, brake.budget_w, steps) if steps else None


def goal(ceiling_w: float, table: Table, load: float | None, *, floor_w: float, margin: float = 0.0) -> float:
    """The ceiling at a load (share of the budget; None = unknown); with a margin steps count that much sooner."""
    reached = [watts for ratio, watts in table.steps if load is None or not load < ratio - margin]
    return min(ceiling_w, max(floor_w, min(reached, default=inf)))


@dataclass(slots=True)
class Held:
    """How one GPU is braked. `watts` None = not braked; `told_w` is what was last reported."""

    watts: float | None = None
    calm_s: float | None = None  # since when the load would allow more
    told_w: float | None = None
    failures: int = 0
    retry_s: float = -inf

    def next(self, ceiling_w: float, table: Table, load: float | None, *, floor_w: float, now_s: float) -> float:
        """The ceiling from now on; keeps the time of calm. Twice at the same moment is the same as once."""
        now_w = min(ceiling_w, inf if self.watts is None else max(self.watts, floor_w))
        down_w = goal(ceiling_w, table, load, floor_w=floor_w)
        up_w = goal(ceiling_w, table, load, floor_w=floor_w, margin=MARGIN)
        if up_w <= now_w:
            self.calm_s = None
            return min(now_w, down_w)
        if self.calm_s is None:
            self.calm_s = now_s
        if now_s - self.calm_s < EASE_S:
            return now_w
        self.calm_s = now_s
        deepest_w = goal(ceiling_w, table, None, floor_w=floor_w)
        # A brake from an earlier, deeper table comes back over its own range: the new one may have none.
        range_w = ceiling_w - min(deepest_w, now_w)
        return min(up_w, now_w + max(EASE_LEAST_W, EASE * range_w))


@dataclass(slots=True)
class RowLoad:
    """What the agent last said of its row's meter."""

    max_age_s: float
    budget_w: float | None  # the owner's word; None = the table's
    watts: float | None = None
    at_s: float = -inf

    def say(self, watts: float | None, age_s: float, now_s: float) -> None:
        """A meter never reads nothing or less: such a reading is none."""
        sound = watts is not None and isfinite(watts) and watts > 0.0 and isfinite(age_s)
        self.watts = watts if sound else None
        self.at_s = now_s - max(age_s, 0.0) if sound else -inf

    def ratio(self, table: Table, now_s: float) -> float | None:
        """Share of the budget; None = unknown or too old."""
        budget_w = table.budget_w if self.budget_w is None else self.budget_w
        if self.watts is None or now_s - self.at_s > self.max_age_s or not budget_w > 0.0:
            return None
        return self.watts / budget_w

    def why(self, table: Table, now_s: float) -> str:
        """Half a sentence on the load."""
        load = self.ratio(table, now_s)
        if load is not None:
            budget_w = table.budget_w if self.budget_w is None else self.budget_w
            return f"row {table.row} draws {self.watts:.0f} W, {load:.0%} of its {budget_w:.0f} W"
        if self.at_s == -inf:
            return f"the power of row {table.row} is unknown"
        return f"the power of row {table.row} is {now_s - self.at_s:.0f} s old (bound {self.max_age_s:g} s)"
