"""Training over several GPUs: the slowest rank or stage sets the pace, so the others may run slower for less energy.

Data-parallel ranks are in `models.control.ranks`, which nodes use as well. Pipeline stages wait along the critical path
of the 1F1B schedule: each stage alternates one forward and one backward micro-batch. Pure: tables in, settings out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from models.control.ranks import Option, RankPlan, for_ranks

__all__ = ["Option", "PipelinePlan", "RankPlan", "Stage", "for_pipeline", "for_ranks", "iteration_s"]

MOST_OPTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Stage:
    """Settings of one pipeline stage, forward and backward, each ordered from fastest to slowest."""

    forward: tuple[Option, ...]
    backward: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    """Per stage the settings of (forward, backward), in the steady part and in warm-up and drain; waits are paid for.

    Two sets, because the first forwards and the last backwards lie on the critical path of every stage: slowed there,
    they lengthen the iteration even on a stage that waits in the middle of it.
    """

    settings: tuple[tuple[float, float, float, float], ...]
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


def iteration_s(
    forward_s: Sequence[float],
    backward_s: Sequence[float],
    micro_batches: int,
    *,
    first_s: Sequence[float] | None = None,
    last_s: Sequence[float] | None = None,
) -> float:
    """Length of one 1F1B iteration: warm-up forwards, then one forward and one backward in turn, then the rest.

    first_s and last_s: seconds of forwards in the warm-up and of backwards in the drain, where they differ.
    """
    stages = len(forward_s)
    times = (forward_s, backward_s, first_s or forward_s, last_s or backward_s)
    free, done = [0.0] * stages, [0.0]  # slot 0: what depends on nothing
    for stage, side, before in _order(stages, micro_batches):
        free[stage] = max(free[stage], done[before]) + times[side][stage]
        done.append(free[stage])
    return max(free)


@lru_cache(maxsize=8)
def _order(stages: int, micro_batches: int) -> tuple[tuple[int, int, int], ...]:
    """(stage, side, slot of what it waits for) of every operation, in an order in which nothing waits for a later one.

    Sides: forward, backward, warm-up forward, drain backward.
    """
    todo = [_schedule(stage, stages, micro_batches) for stage in range(stages)]
    at, slots = [0] * stages, dict[tuple[str, int, int], int]()
    found: list[tuple[int, int, int]] = []
    while any(at[stage] < len(todo[stage]) for stage in range(stages)):
        before_round = len(found)
        for stage in range(stages):
            while at[stage] < len(todo[stage]):
                kind, batch, edge = todo[stage][at[stage]]
                needed = _needs(kind, stage, batch, stages)
                if needed is not None and needed not in slots:
                    break
                found.append((stage, (kind == "b") + 2 * edge, slots[needed] if needed is not None else 0))
                slots[(kind, stage, batch)] = len(found)
                at[stage] += 1
        if len(found) == before_round:  # cannot happen with 1F1B; a wrong schedule must not hang
            raise RuntimeError("the pipeline's schedule waits for itself")
    return tuple(found)


def for_pipeline(
    stages: Sequence[Stage], *, micro_batches: int, bound: float = 0.0, wait_w: float = 70.0
) -> PipelinePlan:
    """Slows stages step by step, the best energy per lost second first, while the iteration keeps its bound."""
    if not stages or micro_batches < 1:
        raise ValueError("a pipeline needs a stage and a micro-batch; give the times of every stage")
    stages = [Stage(_thinned(one.forward), _thinned(one.backward)) for one in stages]
    fastest = [[0, 0, 0, 0] for _ in stages]
    before_s = _length(stages, fastest, micro_batches)
    before_j = _energy(stages, fastest, before_s, micro_batches, wait_w)
    limit = before_s * (1.0 + bound) * (1.0 + 1e-9)
    starts = [fastest, _together(stages, micro_batches, limit=limit)]
    found = [_slowed(stages, start, micro_batches, limit=limit, wait_w=wait_w) for start in starts]
    at = min(found, key=lambda one: _energy(stages, one, _length(stages, one, micro_batches), micro_batches, wait_w))
    after_s = _length(stages, at, micro_batches)
    return PipelinePlan(
        settings=tuple(_settings(one, row) for one, row in zip(stages, at, strict=True)),
        time_before_s=before_s,
        time_after_s=after_s,
        energy_before_j=before_j,
        energy_after_j=_energy(stages, at, after_s, micro_batches, wait_w),
    )


def _thinned(options: Sequence[Option]) -> tuple[Option, ...]:
    """At most MOST_OPTIONS of them, the fastest and the slowest among them: a finer grid is not worth its search."""
    if len(options) <= MOST_OPTIONS:
        return tuple(options)
    step = (len(options) - 1) / (MOST_OPTIONS - 1)
    return tuple(options[round(at * step)] for at in range(MOST_OPTIONS))


def _together(stages: Sequence[Stage], micro_batches: int, *, limit: float) -> list[list[int]]:
    """All stages slowed alike, as far as the limit goes: the start from which a bound above zero is used up."""
    at = [[0, 0, 0, 0] for _ in stages]
    for depth in range(1, MOST_OPTIONS):
        tried = [
            [min(depth, len(one.backward if side % 2 else one.forward) - 1) for side in range(4)] for one in stages
        ]
        if _length(stages, tried, micro_batches) > limit:
            break
        at = tried
    return at


def _slowed(
    stages: Sequence[Stage], start: list[list[int]], micro_batches: int, *, limit: float, wait_w: float
) -> list[list[int]]:
    at = [list(row) for row in start]
    now_j = _energy(stages, at, _length(stages, at, micro_batches), micro_batches, wait_w)
    for _ in range(4 * len(stages) * MOST_OPTIONS):
        step = _best_step(stages, at, micro_batches, limit=limit, now_j=now_j, wait_w=wait_w)
        if step is None:
            break
        stage, side, now_j = step
        at[stage][side] += 1
    return at


def _best_step(
    stages: Sequence[Stage], at: list[list[int]], micro_batches: int, *, limit: float, now_j: float, wait_w: float
) -> tuple[int, int, float] | None:
    """The slower setting of one stage and direction that saves most and keeps the limit; None when none does."""
    best: tuple[int, int, float] | None = None
    for stage, one in enumerate(stages):
        for side in range(4):
            if at[stage][side] + 1 >= len(one.backward if side % 2 else one.forward):
                continue
            at[stage][side] += 1
            length = _length(stages, at, micro_batches)
            energy = _energy(stages, at, length, micro_batches, wait_w)
            at[stage][side] -= 1
            if length <= limit and energy < now_j and (best is None or energy < best[2]):
                best = (stage, side, energy)
    return best


def _settings(stage: Stage, at: Sequence[int]) -> tuple[float, float, float, float]:
    forward, backward, first, last = at
    return (
        stage.forward[forward].setting,
        stage.backward[backward].setting,
        stage.forward[first].setting,
        stage.backward[last].setting,
    )


def _length(stages: Sequence[Stage], at: list[list[int]], micro_batches: int) -> float:
    pairs = list(zip(stages, at, strict=True))
    return iteration_s(
        [one.forward[row[0]].time_s for one, row in pairs],
        [one.backward[row[1]].time_s for one, row in pairs],
        micro_batches,
        first_s=[one.forward[row[2]].time_s for one, row in pairs],
        last_s=[one.backward[row[3]].time_s for one, row in pairs],
    )


def _energy(stages: Sequence[Stage], at: list[list[int]], length: float, micro_batches: int, wait_w: float) -> float:
    total = 0.0
    for stage, (one, row) in enumerate(zip(stages, at, strict=True)):
        edge = min(len(stages) - stage - 1, micro_batches)
        counts = (micro_batches - edge, micro_batches - edge, edge, edge)
        chosen = (one.forward[row[0]], one.backward[row[1]], one.forward[row[2]], one.backward[row[3]])
        busy = sum(count * option.time_s for count, option in zip(counts, chosen, strict=True))
        total += sum(count * option.energy_j for count, option in zip(counts, chosen, strict=True))
        total += wait_w * max(length - busy, 0.0)
    return total


def _schedule(stage: int, stages: int, micro_batches: int) -> list[tuple[str, int, bool]]:
    """(kind, micro-batch, whether it belongs to warm-up or drain), in the stage's order."""
    warm = min(stages - stage - 1, micro_batches)
    order = [("f", batch, True) for batch in range(warm)]
    for batch in range(micro_batches - warm):
        order += [("f", warm + batch, False), ("b", batch, False)]
    return order + [("b", batch, True) for batch in range(micro_batches - warm, micro_batches)]


def _needs(kind: str, stage: int, batch: int, stages: int) -> tuple[str, int, int] | None:
    if kind == "f":
        return None if stage == 0 else ("f", stage - 1, batch)
    return ("f", stage, batch) if stage == stages - 1 else ("b", stage + 1, batch)
