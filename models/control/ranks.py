"""Ranks of one data-parallel job: all wait for the slowest at each step, so the others may run slower for less energy.

Pure: tables of measured settings in, settings out. It must not measure, nor know of devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a knob and what a step (or a stage's micro-batch) costs there."""

    setting: float
    time_s: float
    energy_j: float


@dataclass(frozen=True, slots=True)
class RankPlan:
    """Setting per rank, the pace before and after, and energy of a step including the wait."""

    settings: dict[str, float]
    pace_s: float
    planned_s: float
    energy_before_j: float
    energy_after_j: float

    @property
    def saving(self) -> float:
        return 1.0 - self.energy_after_j / self.energy_before_j

    @property
    def slowdown(self) -> float:
        return self.planned_s / self.pace_s - 1.0


def for_ranks(
    ranks: Mapping[str, Sequence[Option]],
    *,
    bound: float = 0.0,
    guard: float = 0.01,
    wait_w: float = 0.0,
    pace_s: float = 0.0,
) -> RankPlan:
    """Each rank's setting of least energy whose time, plus a guard, keeps the pace of the slowest rank at its fastest.

    Args:
        ranks: the settings measured for each rank.
        bound: accepted slowdown of the whole step.
        guard: share of the pace kept free on ranks that are slowed, so that noise makes no new straggler.
        wait_w: watts of a rank that waits.
        pace_s: of the slowest rank that is not among these; 0 = they are all.
    """
    if not ranks or any(not options for options in ranks.values()):
        raise ValueError("a rank has no settings; measure at least its default")
    fastest = {name: min(options, key=lambda one: one.time_s) for name, options in ranks.items()}
    pace = max(pace_s, *(one.time_s for one in fastest.values()))
    allowed = pace * (1.0 + bound)

    def cost(option: Option, step_s: float) -> float:
        return option.energy_j + wait_w * max(step_s - option.time_s, 0.0)

    chosen: dict[str, Option] = {}
    for name, options in ranks.items():
        room = [one for one in options if one.time_s <= allowed * (1.0 - guard)] or [fastest[name]]
        chosen[name] = min(room, key=lambda one: cost(one, allowed))
    step_s = max(one.time_s for one in chosen.values())
    return RankPlan(
        settings={name: one.setting for name, one in chosen.items()},
        pace_s=pace,
        planned_s=max(step_s, pace),
        energy_before_j=sum(cost(one, pace) for one in fastest.values()),
        energy_after_j=sum(cost(one, max(step_s, pace)) for one in chosen.values()),
    )
