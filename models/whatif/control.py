"""A strategy inside a replay: the arbiter grants, the node's own local controller chooses clocks inside the grant.

The same functions as in production: models.policy.arbiter, models.policy.strategies, models.control. Targets come from
whoever pools the hold-out's latencies (`TargetsPort`), as in the actuation job.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from models.control.controller import LocalController
from models.control.profiles import StackProfile
from models.control.types import ClockBounds, EngineState, Observed, Targets
from models.policy.arbiter import Device, Facts, Grant, decide
from models.policy.strategies import Strategy
from models.twin.cluster import TwinCluster
from models.twin.device import SW_POWER_CAP
from models.twin.histograms import SparseHist
from models.whatif.replay import HALF_S, Readings
from models.whatif.series import Array, Bools, Machine, Series, quantile_ms

_STEP_MHZ: Final = 15


class TargetsPort(Protocol):
    """The hold-out's latencies and what follows from them."""

    def add(self, now_s: float, engine: int, reading: tuple[SparseHist, SparseHist, SparseHist]) -> None:
        """One second of an engine."""

    def evaluate(self, now_s: float) -> None:
        """One window of the automatic rollback."""

    def obstacle(self, engine: int, now_s: float) -> str | None:
        """Why nothing may be granted to an engine now."""

    def targets(self, engine: int) -> Targets:
        """Latency targets of an engine."""


@dataclass(slots=True)
class Tally:
    """What was done: counted over the whole replay."""

    clock_changes: int = 0
    limit_changes: int = 0
    rounds: int = 0  # envelopes of every node
    granted_s: float = 0.0  # engine seconds with a grant
    first_grant_s: float | None = None  # when anything was granted first
    extrapolated_s: float = 0.0  # engine seconds below the lowest clock that the archive has shown, by lock or limit
    limited_s: float = 0.0  # those of them in which a power limit held the clock there
    lowest_mhz: float | None = None  # lowest lock that was set, or clock below the shown ones that a limit left
    highest_ceilings_w: float = 0.0
    uncapped_s: float = 0.0  # engine seconds in which a budget was set and latency left no grant to carry it


class StrategyControl:
    """Control of all engines of a series under one strategy, with or without a share of a power budget."""

    def __init__(
        self,
        series: Series,
        profile: StackProfile | None,
        strategy: Strategy,
        *,
        targets: TargetsPort,
        interval_s: float,
        budget_w: float | None = None,
        shown_mhz: float = 0.0,
        shown_limit_w: float = 0.0,
    ) -> None:
        """budget_w: ceiling of one controlled GPU; shown_*: the lowest clock and limit that the archive has shown."""
        self._shown_mhz, self._shown_limit_w = shown_mhz, shown_limit_w
        self._series, self._strategy, self._targets = series, strategy, targets
        self._interval_s, self._budget_w = interval_s, budget_w
        count = len(series.engines)
        self._controllers = [LocalController(profile) for _ in range(count)]
        self._grants: list[Grant | None] = [None] * count
        self._states: list[EngineState | None] = [None] * count
        self._observed: list[Observed | None] = [None] * count
        self._prompt: Array = np.full(count, np.nan)
        self._throttle = np.zeros(count, dtype=np.int64)
        self._lock: Array = np.zeros(count)
        self._limit: Array = np.full(count, series.machine.limit_default_w)
        self._clocks: Array = np.full(count, series.machine.sm_max_mhz)  # that resulted, of the last reading
        self._due_s = 0.0
        self._seen_s = 0.0
        self.tally = Tally()

    def reading(self, now_s: float, twin: TwinCluster, readings: Readings) -> None:
        """A second of telemetry: to the hold-out's pool, and to each engine's controller."""
        gpus, self._seen_s = twin.gpus_per_replica, now_s
        clocks, power = twin.sm_mhz[::gpus], twin.true_power_w.reshape(-1, gpus).mean(axis=1)
        bits = np.bitwise_or.reduce(twin.throttle.reshape(-1, gpus), axis=1)
        prompt = twin.prompt_tokens_total.astype(np.float64)
        rate = prompt - self._prompt  # per second; NaN in the first one
        rows = zip(twin.running, twin.waiting, twin.waiting_tokens, twin.kv_tokens, strict=True)
        for engine, (row, reading) in enumerate(zip(rows, readings, strict=True)):
            self._targets.add(now_s, engine, reading)
            self._states[engine] = EngineState(0.0, *(int(value) for value in row))
            known = float(rate[engine]) if np.isfinite(rate[engine]) else None
            self._observed[engine] = _observed(
                reading[1], int(clocks[engine]), float(power[engine]), known, float(self._limit[engine])
            )
        self._prompt, self._throttle, self._clocks = prompt, bits, clocks.astype(np.float64)

    def decide(self, now_s: float) -> tuple[Array, Array]:
        """New envelopes when they are due, then each engine's clock."""
        if now_s >= self._due_s:
            self._envelopes(now_s)
        lock, limit = np.zeros_like(self._lock), np.full_like(self._limit, self._series.machine.limit_default_w)
        for engine, grant in enumerate(self._grants):
            if grant is None or grant.empty:
                continue
            if grant.max_power_w is not None:
                limit[engine] = grant.max_power_w
            lock[engine] = self._clock(engine, grant, now_s) or 0.0
        self.tally.clock_changes += int((lock != self._lock).sum())
        self.tally.limit_changes += int((limit != self._limit).sum())
        self._tell(now_s, lock, limit)
        self._lock, self._limit = lock, limit
        return lock, limit

    def _tell(self, now_s: float, lock: Array, limit: Array) -> None:
        tally = self.tally
        if tally.first_grant_s is None and any(grant is not None and not grant.empty for grant in self._grants):
            tally.first_grant_s = now_s
        tally.granted_s += HALF_S * sum(grant is not None and not grant.empty for grant in self._grants)
        limited = self._limited(limit)
        tally.limited_s += HALF_S * int(limited.sum())
        tally.extrapolated_s += HALF_S * int((limited | ((lock > 0) & (lock < self._shown_mhz))).sum())
        used = np.concatenate([lock[lock > 0], self._clocks[limited]])
        if len(used):
            lowest = float(used.min())
            tally.lowest_mhz = lowest if tally.lowest_mhz is None else min(tally.lowest_mhz, lowest)
        if self._budget_w is not None:
            above = (limit > self._budget_w) & ~self._series.holdout
            tally.uncapped_s += HALF_S * int(above.sum())
        ceilings = float(limit.sum()) * self._series.machine.gpus
        tally.highest_ceilings_w = max(tally.highest_ceilings_w, ceilings)

    def _limited(self, limit: Array) -> Bools:
        """Engines that a limit lower than the archive has shown holds below the clocks that it has shown."""
        held = (self._throttle & SW_POWER_CAP) > 0
        return held & (limit < self._shown_limit_w) & (self._clocks < self._shown_mhz)

    def _envelopes(self, now_s: float) -> None:
        self._due_s = now_s + self._interval_s
        self.tally.rounds += 1
        self._targets.evaluate(now_s)
        device = _device(self._series.machine)
        for engine, name in enumerate(self._series.engines):
            facts = Facts(
                device=device,
                engine=name,
                holdout=bool(self._series.holdout[engine]),
                latency=self._targets.obstacle(engine, now_s),
                budget_w=self._budget_w,
            )
            self._grants[engine] = decide(facts, self._strategy)

    def _clock(self, engine: int, grant: Grant, now_s: float) -> int | None:
        if grant.min_sm_mhz is None or grant.max_sm_mhz is None:
            return None
        top = int(self._series.machine.sm_max_mhz)
        bounds = ClockBounds(grant.min_sm_mhz, grant.max_sm_mhz, top, _STEP_MHZ)
        seen, self._observed[engine] = self._observed[engine], _again(self._observed[engine])
        decision = self._controllers[engine].step(
            now_s,
            self._states[engine],
            targets=self._targets.targets(engine),
            bounds=bounds,
            throttle=int(self._throttle[engine]),
            observed=seen,
        )
        if decision.sm_mhz is None:
            return None
        return min(max(decision.sm_mhz, bounds.min_mhz), bounds.max_mhz)


def _device(machine: Machine) -> Device:
    return Device(int(machine.sm_max_mhz), machine.limit_default_w, machine.limit_min_w, machine.limit_max_w)


def _observed(tbt: SparseHist, sm_mhz: int, power_w: float, rate: float | None, limit_w: float) -> Observed:
    count = sum(tbt.count)
    if count == 0:
        return Observed(None, sm_mhz, power_w, rate, limit_w=limit_w)
    dense = np.bincount(tbt.index, weights=tbt.count).astype(np.int64)
    return Observed(tbt.sum_ms / count, sm_mhz, power_w, rate, quantile_ms(dense, 0.99), limit_w=limit_w)


def _again(observed: Observed | None) -> Observed | None:
    """Asked again about the same reading, only the load is repeated, as on the node."""
    if observed is None:
        return None
    return Observed(None, None, None, observed.prompt_tokens_per_s, limit_w=observed.limit_w)
