"""A data-parallel training group on the twin: every rank its own limit and health, one pace for all.

Steps end when the slowest rank is done and the gradients are exchanged; who is early waits and draws idle watts with a
context loaded. It must not choose limits (models.policy does).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.twin.job import JobLaw, Jobs, run

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GroupStep:
    """One step of the group: its length, and per rank busy seconds and joules (the wait included)."""

    step_s: float
    busy_s: Array
    energy_j: Array
    watts: Array  # while busy

    @property
    def straggler(self) -> int:
        """The rank that everybody waits for."""
        return int(np.argmax(self.busy_s))


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks with the same job; `slower` > 1 is a rank that needs longer at any clock, `hotter` one that draws more."""

    law: JobLaw
    job: Jobs  # one job
    slower: Array
    hotter: Array
    exchange_s: float = 0.0  # gradients, not overlapped with work
    wait_w: float = 115.0  # context loaded, full clock

    def step(self, *, limit_w: Array, lock_x: Array | None = None) -> GroupStep:
        """A step with a limit (and a lock) for each rank."""
        ranks = len(self.slower)
        if np.shape(limit_w) != (ranks,):
            raise ValueError(f"{np.shape(limit_w)} limits for {ranks} ranks; give one for each")
        locks = np.ones(ranks) if lock_x is None else lock_x
        # A board that draws more meets its limit sooner: the same as a nominal one under a lower limit.
        time_s, watts = run(
            self.law,
            self.job,
            lock_x=locks[None, :],
            limit_w=(np.asarray(limit_w, dtype=np.float64) / self.hotter)[None, :],
        )
        busy = time_s[0] * self.slower
        drawn = watts[0] * self.hotter
        length = float(busy.max()) + self.exchange_s
        return GroupStep(length, busy, drawn * busy + self.wait_w * (length - busy), drawn)
