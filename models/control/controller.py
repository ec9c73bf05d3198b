"""The local controller of one engine: the lowest clock whose predicted latency keeps the targets, or default clocks.

Called every 0.5-1 s with everything as arguments; no clock, no files, no hardware. Up in one step, down one step a
second after three clean windows. It decides inside the bounds it is given and never about power limits.
"""

from __future__ import annotations

from math import ceil, isfinite
from typing import Final

from models.control.forecast import LoadNow, chunk_room, iteration_pair_s, latency
from models.control.learning import Ratios
from models.control.profiles import StackProfile
from models.control.release import heat_or_brake, no_signal, no_target
from models.control.types import ClockBounds, Decision, EngineState, Observed, Targets

__all__ = ["ClockBounds", "Decision", "EngineState", "LocalController", "Observed", "Targets"]

DWELL_S: Final = 1.0
CLEAN_WINDOWS: Final = 3
DOWN_MHZ: Final = 60  # one step down costs at most 4 % of latency, so a wrong model shows before it hurts
UNKNOWN_STACK_FLOOR: Final = 0.95  # of default: without a profile nothing lower is tried


class LocalController:
    """Keeps the lock it asked for, the clean windows since the last rise and two learned ratios."""

    def __init__(self, profile: StackProfile | None) -> None:
        self._profile = profile
        self._lock_mhz: int | None = None
        self._changed_s = float("-inf")
        self._clean = 0
        self._steady = False
        self.ratios = Ratios()

    def step(
        self,
        now_s: float,
        state: EngineState | None,
        *,
        targets: Targets,
        bounds: ClockBounds,
        throttle: int,
        observed: Observed | None,
    ) -> Decision:
        """One decision at now_s (any monotonic clock): a lock inside the bounds, or None = default clocks."""
        before = self._lock_mhz
        blocked = no_target(targets) or heat_or_brake(throttle) or no_signal(state)
        if blocked is not None or state is None:
            decision = self._release(now_s, blocked or "no engine signal: default clocks")
        elif self._profile is None:
            decision = self._cautious(now_s, state, bounds)
        else:
            load = _load(state, observed)
            self._learn(self._profile, load, bounds, observed)
            decision = self._predictive(now_s, self._profile, load, targets=targets, bounds=bounds)
        self._steady = self._lock_mhz == before
        return decision

    def _predictive(
        self, now_s: float, profile: StackProfile, load: LoadNow, *, targets: Targets, bounds: ClockBounds
    ) -> Decision:
        fmax = profile.device.fmax_mhz
        now = latency(profile, (self._lock_mhz or bounds.default_mhz) / fmax, load, self.ratios)
        if targets.ttft_ms is not None and now.wait_ms > targets.ttft_ms:
            return self._release(
                now_s, f"queue wait {now.wait_ms:.0f} ms over the target of {targets.ttft_ms:.0f} ms: default clocks"
            )
        grid = _grid(bounds)
        if not grid:
            return self._release(now_s, "the bounds hold no clock of the device's grid: default clocks")
        top = latency(profile, grid[-1] / fmax, load, self.ratios).broken(targets)
        if top is not None:
            return self._release(now_s, f"{top} even at {grid[-1]} MHz: default clocks")
        low, high = 0, len(grid) - 1
        while low < high:
            middle = (low + high) // 2
            if latency(profile, grid[middle] / fmax, load, self.ratios).broken(targets) is None:
                high = middle
            else:
                low = middle + 1
        return self._approach(now_s, grid[high], bounds, f"lowest clock that keeps the targets is {grid[high]} MHz")

    def _cautious(self, now_s: float, state: EngineState, bounds: ClockBounds) -> Decision:
        if state.waiting_tokens:
            return self._release(now_s, f"unknown stack with {state.waiting_tokens} tokens waiting: default clocks")
        floor = UNKNOWN_STACK_FLOOR * bounds.default_mhz
        grid = [mhz for mhz in _grid(bounds) if mhz >= floor]
        if not grid:
            return self._release(now_s, f"unknown stack and no clock from {floor:.0f} MHz in bounds: default clocks")
        return self._approach(now_s, grid[0], bounds, f"unknown stack: not below {grid[0]} MHz")

    def _approach(self, now_s: float, wanted: int, bounds: ClockBounds, why: str) -> Decision:
        """Up at once; down one step a second after three clean windows; always inside the bounds."""
        if self._lock_mhz is None and wanted >= bounds.default_mhz:
            self._clean = 0
            return Decision(None, f"{why}, the default")
        current = self._lock_mhz if self._lock_mhz is not None else bounds.default_mhz
        if wanted > current:
            self._clean = 0
            if wanted >= bounds.default_mhz:
                return self._release(now_s, f"{why}, the default")
            return self._move(now_s, wanted, f"{why}: up in one step from {current} MHz")
        self._clean = self._clean + 1 if wanted < current else 0
        if wanted < current and self._clean >= CLEAN_WINDOWS and now_s - self._changed_s >= DWELL_S:
            step = max(bounds.step_mhz, DOWN_MHZ // bounds.step_mhz * bounds.step_mhz)
            lower = min(max(wanted, current - step), _grid(bounds)[-1])
            return self._move(now_s, lower, f"{why}: one step down from {current} MHz")
        return self._hold(now_s, bounds, why)

    def _hold(self, now_s: float, bounds: ClockBounds, why: str) -> Decision:
        if self._lock_mhz is None:
            return Decision(None, f"{why}: default clocks until {CLEAN_WINDOWS} clean windows have passed")
        grid = _grid(bounds)
        inside = min(max(self._lock_mhz, grid[0]), grid[-1])
        if inside != self._lock_mhz:
            return self._move(now_s, inside, f"{why}: moved into the bounds")
        return Decision(inside, f"{why}: held")

    def _move(self, now_s: float, mhz: int, why: str) -> Decision:
        self._lock_mhz, self._changed_s = mhz, now_s
        return Decision(mhz, why)

    def _release(self, now_s: float, why: str) -> Decision:
        if self._lock_mhz is not None:
            self._lock_mhz, self._changed_s = None, now_s
        self._clean = 0
        return Decision(None, why)

    def _learn(self, profile: StackProfile, load: LoadNow, bounds: ClockBounds, observed: Observed | None) -> None:
        """Compares the last window with the model, if the lock did not move in it."""
        if observed is None or not self._steady or load.running == 0:
            return
        mhz = max(self._lock_mhz or bounds.default_mhz, observed.sm_mhz or 0)
        decode_s, mixed_s = iteration_pair_s(profile, min(1.0, mhz / profile.device.fmax_mhz), load)
        room = chunk_room(profile, load.running)
        chunks_per_s = None if load.prompt_tokens_per_s is None else load.prompt_tokens_per_s / room
        mean_s = _seconds(observed.tbt_mean_ms)
        if mean_s is not None and chunks_per_s is not None:
            share = min(1.0, chunks_per_s * mean_s)
            self.ratios.learn_mean(mean_s, decode_s=decode_s, mixed_s=mixed_s, mixed_share=share)
        tail_s = _seconds(observed.tbt_p99_ms)
        if tail_s is not None and chunks_per_s is not None and chunks_per_s >= 2.0:
            self.ratios.learn_tail(tail_s, mixed_s=mixed_s)


def _grid(bounds: ClockBounds) -> range:
    """Clocks of the device's grid inside the bounds, not above default."""
    low = ceil(bounds.min_mhz / bounds.step_mhz) * bounds.step_mhz
    return range(low, min(bounds.max_mhz, bounds.default_mhz) + 1, bounds.step_mhz)


def _load(state: EngineState, observed: Observed | None) -> LoadNow:
    """A state that no_signal() has passed: running, waiting tokens and KV tokens are known."""
    rate = observed.prompt_tokens_per_s if observed is not None else None
    return LoadNow(state.running or 0, state.waiting_tokens or 0, state.kv_tokens or 0, rate)


def _seconds(value_ms: float | None) -> float | None:
    return value_ms / 1e3 if value_ms is not None and isfinite(value_ms) and value_ms > 0.0 else None
