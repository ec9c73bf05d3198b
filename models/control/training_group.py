"""Ranks of one data-parallel job whose step times are known together: which of its settings each one runs at.

The slowest rank at its reference sets the pace; the others may take what they would wait, less a guard, and everybody
the bound. A rank whose word is too old is in no plan: the others then get the room that is left without it.
It must not measure or set: `training_session` does the one, the node's loop the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from models.control.ranks import Option, for_ranks

GUARD: Final = 0.01  # of the pace


@dataclass(frozen=True, slots=True)
class Order:
    """The setting of a rank, and how much longer than at its reference it may be busy; `most`: without the guard."""

    setting: float
    room: float
    most: float


class RankGroup:
    """The ranks of one job on one node; those on others are known by their pace only.

    Args:
        bound: how much longer a step of the job may take.
        guard: share of the pace kept free, so that noise makes no new straggler.
    """

    def __init__(self, *, bound: float, guard: float = GUARD) -> None:
        self._bound, self._guard = bound, guard
        self._said: dict[str, tuple[float, tuple[Option, ...]]] = {}

    def say(self, rank: str, options: Sequence[Option], *, until_s: float) -> None:
        """What a rank can run at, its reference first, and until when that counts; empty = unknown, measured anew."""
        if options:
            self._said[rank] = (until_s, tuple(options))
        else:
            self.forget(rank)

    def forget(self, rank: str) -> None:
        """Its step times are unknown, or it is not ours to set: it is at its default."""
        self._said.pop(rank, None)

    def order(self, rank: str, now_s: float, *, pace_s: float | None = None) -> Order | None:
        """What the group asks of a rank now; None = nothing is known of it, so it keeps its default.

        pace_s: busy seconds of the slowest rank elsewhere, at its default; None = unknown.
        """
        ranks = {name: options for name, (until_s, options) in self._said.items() if now_s <= until_s}
        if rank not in ranks:
            return None
        plan = for_ranks(ranks, bound=self._bound, guard=self._guard, pace_s=pace_s or 0.0)
        most = plan.pace_s * (1.0 + self._bound) / ranks[rank][0].time_s
        return Order(plan.settings[rank], max(0.0, most * (1.0 - self._guard) - 1.0), most - 1.0)
