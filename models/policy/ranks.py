"""Training over several GPUs: the slowest rank or stage sets the pace, so the others may run slower for less energy.

Data-parallel ranks wait for the slowest at each step. Pipeline stages wait along the critical path of the 1F1B
schedule: each stage alternates one forward and one backward micro-batch. Pure: tables of settings in, settings out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_ROUNDS: Final = 10_000


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
    ranks: Mapping[str, Sequence[Option]], *, bound: float = 0.0, guard: float = 0.01, wait_w: float = 0.0
) -> RankPlan:
    """Each rank's setting of least energy whose time, plus a guard, keeps the pace of the slowest rank at its fastest.

    Args:
        ranks: the settings measured for each rank.
        bound: accepted slowdown of the whole step.
        guard: share of the pace kept free on ranks that are slowed, so that noise makes no new straggler.
        wait_w: watts of a rank that waits.
    """
    if not ranks or any(not options for options in ranks.values()):
        raise ValueError("a rank has no settings; measure at least its default")
    fastest = {name: min(options, key=lambda one: one.time_s) for name, options in ranks.items()}
    pace = max(one.time_s for one in fastest.values())
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


@dataclass(frozen=True, slots=True)
class Stage:
    """Settings of one pipeline stage, forward and backward, each ordered from fastest to slowest."""

    forward: tuple[Option, ...]
    backward: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    """Setting of (forward, backward) per stage; energies include the wait of every stage."""

    settings: tuple[tuple[float, float], ...]
    time_before_s: float
    time_after_s: float
    energy_before_j: float
    energy_after_j: float

    @property
    def saving(self) -> float:
        return 1.0 - self.energy_after_j / self.energy_before_j

    @property
    def slowdown(self) -> float:
        return self.time_after_s / self.time_before_s - 1.0


def iteration_s(forward_s: Sequence[float], backward_s: Sequence[float], micro_batches: int) -> float:
    """Length of one 1F1B iteration: warm-up forwards, then one forward and one backward in turn, then the rest."""
    stages = len(forward_s)
    order = [_schedule(stage, stages, micro_batches) for stage in range(stages)]
    done: dict[tuple[str, int, int], float] = {}
    free, at = [0.0] * stages, [0] * stages
    left = sum(len(one) for one in order)
    while left:
        moved = False
        for stage in range(stages):
            while at[stage] < len(order[stage]):
                kind, batch = order[stage][at[stage]]
                before = _needs(kind, stage, batch, stages)
                if before is not None and before not in done:
                    break
                start = max(free[stage], done[before] if before is not None else 0.0)
                free[stage] = start + (forward_s[stage] if kind == "f" else backward_s[stage])
                done[(kind, stage, batch)] = free[stage]
                at[stage] += 1
                left -= 1
                moved = True
        if not moved:  # cannot happen with 1F1B; a wrong schedule must not hang
            raise RuntimeError("the pipeline's schedule waits for itself")
    return max(free)


def for_pipeline(
    stages: Sequence[Stage], *, micro_batches: int, bound: float = 0.0, wait_w: float = 70.0
) -> PipelinePlan:
    """Slows stages step by step, the best energy per lost second first, while the iteration keeps its bound."""
    if not stages or micro_batches < 1:
        raise ValueError("a pipeline needs a stage and a micro-batch; give the times of every stage")
    at = [[0, 0] for _ in stages]
    before_s = _length(stages, at, micro_batches)
    before_j = _energy(stages, at, before_s, micro_batches, wait_w)
    limit, now_j = before_s * (1.0 + bound) * (1.0 + 1e-9), before_j
    for _ in range(_ROUNDS):
        step = _best_step(stages, at, micro_batches, limit=limit, now_j=now_j, wait_w=wait_w)
        if step is None:
            break
        stage, side, now_j = step
        at[stage][side] += 1
    after_s = _length(stages, at, micro_batches)
    return PipelinePlan(
        settings=tuple(
            (one.forward[f].setting, one.backward[b].setting) for one, (f, b) in zip(stages, at, strict=True)
        ),
        time_before_s=before_s,
        time_after_s=after_s,
        energy_before_j=before_j,
        energy_after_j=_energy(stages, at, after_s, micro_batches, wait_w),
    )


def _best_step(
    stages: Sequence[Stage], at: list[list[int]], micro_batches: int, *, limit: float, now_j: float, wait_w: float
) -> tuple[int, int, float] | None:
    """The slower setting of one stage and direction that saves most and keeps the limit; None when none does."""
    best: tuple[int, int, float] | None = None
    for stage, one in enumerate(stages):
        for side, options in enumerate((one.forward, one.backward)):
            if at[stage][side] + 1 >= len(options):
                continue
            at[stage][side] += 1
            length = _length(stages, at, micro_batches)
            energy = _energy(stages, at, length, micro_batches, wait_w)
            at[stage][side] -= 1
            if length <= limit and energy < now_j and (best is None or energy < best[2]):
                best = (stage, side, energy)
    return best


def _length(stages: Sequence[Stage], at: list[list[int]], micro_batches: int) -> float:
    forward = [one.forward[f].time_s for one, (f, _) in zip(stages, at, strict=True)]
    backward = [one.backward[b].time_s for one, (_, b) in zip(stages, at, strict=True)]
    return iteration_s(forward, backward, micro_batches)


def _energy(stages: Sequence[Stage], at: list[list[int]], length: float, micro_batches: int, wait_w: float) -> float:
    total = 0.0
    for one, (f, b) in zip(stages, at, strict=True):
        busy = micro_batches * (one.forward[f].time_s + one.backward[b].time_s)
        total += micro_batches * (one.forward[f].energy_j + one.backward[b].energy_j) + wait_w * max(length - busy, 0.0)
    return total


def _schedule(stage: int, stages: int, micro_batches: int) -> list[tuple[str, int]]:
    warm = min(stages - stage - 1, micro_batches)
    order = [("f", batch) for batch in range(warm)]
    for batch in range(micro_batches - warm):
        order += [("f", warm + batch), ("b", batch)]
    return order + [("b", batch) for batch in range(micro_batches - warm, micro_batches)]


def _needs(kind: str, stage: int, batch: int, stages: int) -> tuple[str, int, int] | None:
    if kind == "f":
        return None if stage == 0 else ("f", stage - 1, batch)
    return ("f", stage, batch) if stage == stages - 1 else ("b", stage + 1, batch)
