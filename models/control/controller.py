"""The local controller of one engine: the lowest clock whose predicted latency keeps the targets, or default clocks.

Called every 0.5-1 s with everything as arguments; no clock, no files, no hardware. Up in one step, down one step a
second after three clean windows. It decides inside the bounds it is given and never about power limits.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, exp, isfinite
from typing import Final

from models.control.forecast import Latency, LoadNow, chunk_room, expected_pair_s, latency, reachable
from models.control.learning import Ratios
from models.control.profiles import StackProfile
from models.control.release import heat_or_brake, no_signal, no_target
from models.control.types import ClockBounds, Decision, EngineState, Observed, Targets

__all__ = ["ClockBounds", "Decision", "EngineState", "LocalController", "Observed", "Targets"]

DWELL_S: Final = 1.0
CLEAN_WINDOWS: Final = 3
DOWN_MHZ: Final = 60  # one step down costs at most 4 % of latency, so a wrong model shows before it hurts
SLOW_S: Final = 20.0  # a long answer takes about this long
FULL_CHUNKS_PER_S: Final = 2.0  # prefill rate above which a window surely held a full chunk
UNKNOWN_STACK_FLOOR: Final = 0.95  # of default: without a profile nothing lower is tried


class LocalController:
    """Keeps the lock it asked for, the clean windows since the last rise and two learned ratios."""

    def __init__(self, profile: StackProfile | None) -> None:
        self._profile = profile
        self._lock_mhz: int | None = None
        self._changed_s = float("-inf")
        self._clean = 0
        self._steady = False
        self._slow: LoadNow | None = None
        self._slow_s = 0.0
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
        self._follow(now_s, load)
        grid = _grid(bounds)
        if not grid:
            return self._release(now_s, "the bounds hold no clock of the device's grid: default clocks")
        met = load.one_more()
        slow = None if targets.e2e_ms is None else self._slow

        def at(mhz: int) -> Latency:
            return latency(profile, mhz / profile.device.fmax_mhz, load=met, slow=slow, ratios=self.ratios)

        wait_ms = at(self._lock_mhz or bounds.default_mhz).wait_ms
        if targets.ttft_ms is not None and wait_ms > targets.ttft_ms:
            return self._release(
                now_s, f"queue wait {wait_ms:.0f} ms over the target of {targets.ttft_ms:.0f} ms: default clocks"
            )
        goal = reachable(targets, at(bounds.default_mhz))
        broken = at(grid[-1]).broken(goal)
        if broken is not None:
            return self._release(now_s, f"{broken} even at {grid[-1]} MHz: default clocks")
        lowest = _lowest(grid, lambda mhz: at(mhz).broken(goal) is None)
        return self._approach(now_s, lowest, bounds, f"lowest clock that keeps the targets is {lowest} MHz")

    def _follow(self, now_s: float, load: LoadNow) -> None:
        """The mean load over about the duration of a long answer."""
        share = 1.0 - exp(-max(0.0, now_s - self._slow_s) / SLOW_S)
        self._slow = load if self._slow is None else self._slow.towards(load, share)
        self._slow_s = now_s

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
        if observed is None or observed.prompt_tokens_per_s is None or not self._steady or load.running == 0:
            return
        mhz = max(self._lock_mhz or bounds.default_mhz, observed.sm_mhz or 0)
        decode_s, mixed_s = expected_pair_s(profile, min(1.0, mhz / profile.device.fmax_mhz), load)
        chunks_per_s = load.prompt_tokens_per_s / chunk_room(profile, load.running)
        mean_s = _seconds(observed.tbt_mean_ms)
        if mean_s is not None:
            share = min(1.0, chunks_per_s * mean_s)
            self.ratios.learn_mean(mean_s, decode_s=decode_s, mixed_s=mixed_s, mixed_share=share)
        tail_s = _seconds(observed.tbt_p99_ms)
        if tail_s is not None and chunks_per_s >= FULL_CHUNKS_PER_S:
            self.ratios.learn_tail(tail_s, mixed_s=mixed_s)


def _grid(bounds: ClockBounds) -> range:
    """Clocks of the device's grid inside the bounds, not above default."""
    low = ceil(bounds.min_mhz / bounds.step_mhz) * bounds.step_mhz
    return range(low, min(bounds.max_mhz, bounds.default_mhz) + 1, bounds.step_mhz)


def _lowest(grid: range, holds: Callable[[int], bool]) -> int:
    """Lowest clock that holds, given that the highest does and that a higher clock is never slower."""
    low, high = 0, len(grid) - 1
    while low < high:
        middle = (low + high) // 2
        if holds(grid[middle]):
            high = middle
        else:
            low = middle + 1
    return grid[high]


def _load(state: EngineState, observed: Observed | None) -> LoadNow:
    """A state that no_signal() has passed: running, waiting tokens and KV tokens are known."""
    rate = (observed.prompt_tokens_per_s or 0.0) if observed is not None else 0.0
    return LoadNow(state.running or 0, state.waiting_tokens or 0, state.kv_tokens or 0, rate)


def _seconds(value_ms: float | None) -> float | None:
    return value_ms / 1e3 if value_ms is not None and isfinite(value_ms) and value_ms > 0.0 else None
