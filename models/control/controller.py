"""The local controller of one engine: the lowest clock whose predicted latency keeps the targets, or default clocks.

Called every 0.1-1 s with everything as arguments; no clock, no files, no hardware. The arithmetic is in `decide`, which
the bench compiles from the same source; here are unknown values, units and words. It decides inside the bounds it is
given and never about power limits.
"""

from __future__ import annotations

from math import inf, isfinite, nan
from typing import Final

from models.control import memory
from models.control.decide import approach, decide, grid_up, release
from models.control.equations import Plant, iteration_s, under_limit
from models.control.learn import RECALIBRATE_S, flow_of, follow, learn, spare
from models.control.memory import Bounds, Load, Tuning
from models.control.predict import plant_of
from models.control.profiles import StackProfile
from models.control.release import MOST, heat_or_brake, no_signal, no_target
from models.control.residual import Residual, doubtful, predict, time_of
from models.control.setpoint import TBT, limited_s
from models.control.steady import steady
from models.control.taken import counted, measured, seconds
from models.control.types import ClockBounds, Decision, EngineState, Health, Observed, Targets
from models.control.words import Told, moved, words

__all__ = ["ClockBounds", "Decision", "EngineState", "LocalController", "Observed", "Targets"]

SLACK_S: Final = 1e-9
STEP: Final = 0.05  # of the highest clock: a walk down in small steps must not blind who judges
UNKNOWN_STACK_FLOOR: Final = 0.95  # of default: without a profile nothing lower is tried
E2E_SLACK: Final = 1.05  # on the prediction at default clocks, where that already misses the end-to-end target
LIMIT_STEP: Final = 0.02  # of the limit: less changes no clock that could be seen
STATE_CHUNK: Final = Tuning(react_s=0.35)


class LocalController:
    """Keeps one engine's memory: the lock it asked for, the load of the last seconds, two learned ratios.

    `chunk_range`: smallest and largest chunk where the engine takes one while it runs; None where it does not.
    """

    def __init__(self, profile: StackProfile | None, *, chunk_range: tuple[int, int] | None = None) -> None:
        self._profile = profile
        low, high = chunk_range if chunk_range is not None else (0, 0)
        self._tune = STATE_CHUNK._replace(chunk_min=float(low), chunk_max=float(high))
        self._memory = [0.0] * memory.S_SIZE
        self._begun, self._now_s = False, 0.0
        self._mean_s: float | None = None
        self._read_s = self._since_s = -inf  # when gaps were last heard of, and the time before: a window lies between
        # When lock, chunk or limit last moved so far that what ran then says little about the model.
        self._moved_s = -inf
        self._limit_w = inf  # power limit in force; a profile's own is the most that is believed
        self._residual = Residual()

    @property
    def decode_ratio(self) -> float:
        """Learned: measured decode time over predicted."""
        return self._memory[memory.S_DECODE] if self._begun else 1.0

    @property
    def prefill_ratio(self) -> float:
        """Learned: measured time of a full mixed iteration over predicted."""
        return self._memory[memory.S_PREFILL] if self._begun else 1.0

    @property
    def recalibrating(self) -> bool:
        """True while default clocks are kept because the model did not predict."""
        return self._memory[memory.S_TIME] < self._memory[memory.S_RECALIBRATE]

    def health(self) -> Health:
        """What is learned, and how far the newest window was from its prediction."""
        if self._profile is None or not self._begun:
            return Health()
        seen = self._residual
        return Health(
            decode_ratio=self.decode_ratio,
            prefill_ratio=self.prefill_ratio,
            power_ratio=seen.power_ratio,
            time_error=seen.time_error,
            power_error=seen.power_error,
            recalibrating=self.recalibrating,
            slack=spare(self._memory) if self._memory[memory.S_COUNTED] > 0.0 else None,
            wait_price_w=self._memory[memory.S_PRICE],
            meet=self._memory[memory.S_MEET],
        )

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
        self._begin(bounds, now_s)
        self._residual.forget()
        blocked = no_target(targets) or heat_or_brake(throttle) or no_signal(state)
        if blocked is not None or state is None:
            return self._release(now_s, bounds, blocked or "no engine signal: default clocks")
        if self._profile is None:
            return self._cautious(now_s, state, bounds)
        return self._predictive(now_s, self._profile, state, targets=targets, bounds=bounds, observed=observed)

    def watch(self, now_s: float, state: EngineState | None, *, bounds: ClockBounds, observed: Observed | None) -> None:
        """Learns from a window that somebody else's clocks served: a hold-out, a freeze, a mode that only observes."""
        self._begin(bounds, now_s)
        self._residual.forget()
        self._release(now_s, bounds, "")
        clock = observed.sm_mhz if observed is not None else None
        if self._profile is None or state is None or no_signal(state) is not None or not clock or clock <= 0:
            return
        plant, own = self._limited(self._profile, now_s, observed), self._memory
        load = self._load(now_s, plant, state, observed, bounds=bounds)
        load = load._replace(x=_reached(plant, load, min(1.0, max(self._share(clock, bounds), plant.x_min))))
        self._judge(now_s, plant, load, observed)
        if own[memory.S_STARTED] > 0.0:
            learn(plant, self._tuning(observed), own, load, now_s, now_s - own[memory.S_TIME])
        follow(own, load, now_s)

    def _begin(self, bounds: ClockBounds, now_s: float) -> None:
        if self._begun and not now_s >= self._now_s:
            # The clock went back: what was remembered lies in the future and would hold everything still until then.
            self._begun, self._memory, self._mean_s = False, [0.0] * memory.S_SIZE, None
            self._read_s = self._since_s = self._moved_s = -inf
        self._now_s = now_s
        if self._begun:
            return
        self._begun = True
        if self._profile is None:
            self._memory[memory.S_X] = self._memory[memory.S_PROVEN] = 1.0
            self._memory[memory.S_CHANGED] = -1e18
            self._memory[memory.S_DECODE] = self._memory[memory.S_PREFILL] = 1.0
            return
        memory.begin(self._memory, plant_of(self._profile), self._profile.typical_prompt_tokens)
        self._memory[memory.S_X] = self._memory[memory.S_PROVEN] = self._share(bounds.default_mhz, bounds)

    def _share(self, mhz: float, bounds: ClockBounds) -> float:
        return mhz / (self._profile.device.fmax_mhz if self._profile is not None else bounds.default_mhz)

    def _mhz(self, x: float, bounds: ClockBounds) -> int:
        top = self._profile.device.fmax_mhz if self._profile is not None else bounds.default_mhz
        return round(x * top)

    def _predictive(
        self,
        now_s: float,
        profile: StackProfile,
        state: EngineState,
        *,
        targets: Targets,
        bounds: ClockBounds,
        observed: Observed | None,
    ) -> Decision:
        plant = self._limited(profile, now_s, observed)._replace(x_step=self._share(bounds.step_mhz, bounds))
        load = self._load(now_s, plant, state, observed, bounds=bounds)
        load = load._replace(x=_reached(plant, load, load.x))
        if isfinite(load.mean_s):
            self._since_s, self._read_s = self._read_s, now_s
        to = Bounds(
            seconds(targets.tbt_ms),
            seconds(targets.ttft_ms),
            self._gap_s(plant, profile, targets, bounds),
            max(self._share(bounds.min_mhz, bounds), plant.x_min),
            self._share(bounds.max_mhz, bounds),
            self._share(bounds.default_mhz, bounds),
        )
        before = self._memory[memory.S_X]
        # A late window may begin before the lock moved: it is judged when all of it lies in quiet time.
        if self._moved_s + 2.0 * self._tune.react_s <= self._since_s + SLACK_S:
            self._judge(now_s, plant, load, observed)
        x, chunk, why = decide(plant, self._tuning(observed), self._memory, load, to, now_s)
        if abs(x - before) > STEP or (self._tune.chunk_max > 0.0 and self._memory[memory.S_UNQUIET] >= now_s):
            self._moved_s = now_s
        lock = None if x >= to.default_x - 1e-9 else self._mhz(x, bounds)
        if why == TBT:  # said with what a ceiling leaves of default clocks
            own = self._memory
            under_s = own[memory.S_PREFILL] * limited_s(plant, load, own[memory.S_CHUNK])
            own[memory.S_GAP] = max(own[memory.S_GAP], under_s)
        ceiling_w = plant.limit_w if plant.limit_w < profile.device.limit_default_w else None
        said = words(self._memory, why, before, x, self._told(bounds, ceiling_w), targets, bounds)
        return Decision(lock, said, int(chunk) if self._tune.chunk_max > 0.0 else None)

    def _told(self, bounds: ClockBounds, ceiling_w: float | None = None) -> Told:
        default = self._share(bounds.default_mhz, bounds)
        return Told(lambda x: self._mhz(x, bounds), default, self._tune.clean, ceiling_w)

    def _limited(self, profile: StackProfile, now_s: float, observed: Observed | None) -> Plant:
        """The profile under the power limit in force: a ceiling or a brake slows an engine that the model still
        describes. A window in which the limit moved belongs to neither.
        """
        plant = plant_of(profile)
        known = observed.limit_w if observed is not None else None
        limit_w = min(known, plant.limit_w) if known is not None and known > 0.0 else plant.limit_w
        if abs(limit_w - self._limit_w) > LIMIT_STEP * limit_w and isfinite(self._limit_w):
            self._moved_s = now_s
        self._limit_w = limit_w
        return plant._replace(limit_w=limit_w)

    def _judge(self, now_s: float, plant: Plant, load: Load, observed: Observed | None) -> None:
        """Compares the last window with the model before it learns from it. On drift: default clocks, learn fast."""
        own = self._memory
        if own[memory.S_STARTED] <= 0.0:
            return
        window, span_s = None if observed is None else observed.window, now_s - own[memory.S_TIME]
        if window is None or not 0.0 <= window.prompt_tokens <= MOST:
            seen = predict(plant, own, load, span_s)
        else:
            load = load._replace(prefilled=window.prompt_tokens)
            stamped_s = time_of(window.stamped_s) or span_s
            seen = predict(plant, own, load, stamped_s, time_of(window.engine_s))
        if seen is None:
            return
        settled = now_s - own[memory.S_STARTED] >= RECALIBRATE_S and now_s >= own[memory.S_RECALIBRATE]
        self._residual.observe(seen, load, settled=settled)
        if self._residual.drifted:
            own[memory.S_BAD], own[memory.S_RECALIBRATE] = 0.0, now_s + RECALIBRATE_S

    def _tuning(self, observed: Observed | None) -> Tuning:
        """Nothing is learned from a window of which nobody knows how long it was; decisions take it as it is."""
        return self._tune._replace(learns=0.0) if observed is not None and doubtful(observed.window) else self._tune

    def _load(
        self, now_s: float, plant: Plant, state: EngineState, observed: Observed | None, *, bounds: ClockBounds
    ) -> Load:
        """A state that no_signal() has passed: running, waiting tokens and KV tokens are known."""
        own = self._memory
        span = max(0.0, now_s - own[memory.S_TIME]) if own[memory.S_STARTED] > 0.0 else 0.0
        running, kv = float(state.running or 0), float(state.kv_tokens or 0)
        rate = observed.prompt_tokens_per_s if observed is not None else None
        if rate is not None and not 0.0 <= rate <= MOST:
            rate = None  # NaN, below zero or absurd: unknown
        mean_s = measured(observed.tbt_mean_ms if observed is not None else None)
        tail_s = measured(observed.tbt_p99_ms if observed is not None else None)
        self._mean_s = mean_s if isfinite(mean_s) else self._mean_s
        gap = self._mean_s if self._mean_s is not None else iteration_s(plant, own[memory.S_X], running, kv, 0.0)
        shown = observed.sm_mhz if observed is not None else None
        x = max(own[memory.S_X], self._share(shown, bounds)) if shown and shown > 0 else own[memory.S_X]
        return Load(
            running,
            float(state.waiting_tokens or 0),
            kv,
            nan if rate is None else rate * span,
            nan,
            running * span / gap,
            mean_s,
            tail_s,
            min(1.0, x),
            observed.power_w if observed is not None and observed.power_w is not None else nan,
            *counted(observed),
        )

    def _gap_s(self, plant: Plant, profile: StackProfile, targets: Targets, bounds: ClockBounds) -> float:
        """The end-to-end target as a mean gap; in proportion where the profile's long answer misses it at default."""
        if targets.e2e_ms is None:
            return inf
        first = profile.typical_prompt_tokens / max(self._memory[memory.S_TOP], 1.0)
        wanted = (targets.e2e_ms / 1e3 - min(first, 1.0)) / profile.long_output_tokens
        flow = flow_of(self._memory)
        default = steady(plant, flow, self._share(bounds.default_mhz, bounds), plant.chunk_tokens)
        return max(wanted, E2E_SLACK * default.gap_s)

    def _cautious(self, now_s: float, state: EngineState, bounds: ClockBounds) -> Decision:
        if state.waiting_tokens:
            return self._release(
                now_s, bounds, f"unknown stack with {state.waiting_tokens} tokens waiting: default clocks"
            )
        floor = UNKNOWN_STACK_FLOOR * bounds.default_mhz
        step = bounds.step_mhz / bounds.default_mhz
        low = grid_up(max(floor, bounds.min_mhz) / bounds.default_mhz, step)
        if low > min(bounds.max_mhz / bounds.default_mhz, 1.0) + 1e-9:
            return self._release(
                now_s, bounds, f"unknown stack and no clock from {floor:.0f} MHz in bounds: default clocks"
            )
        own, before = self._memory, self._memory[memory.S_X]
        own[memory.S_WANTED] = low
        to = Bounds(inf, inf, inf, low, 1.0, 1.0)
        approach(step, self._tune, own, nan, to, now_s, low)
        why = f"unknown stack: not below {self._mhz(low, bounds)} MHz"
        lock = None if own[memory.S_X] >= 1.0 - 1e-9 else self._mhz(own[memory.S_X], bounds)
        return Decision(lock, why + moved(own, before, own[memory.S_X], self._told(bounds)))

    def _release(self, now_s: float, bounds: ClockBounds, why: str) -> Decision:
        default = self._share(bounds.default_mhz, bounds)
        if abs(default - self._memory[memory.S_X]) > STEP:
            self._moved_s = self._memory[memory.S_UNQUIET] = now_s
        release(self._memory, Bounds(inf, inf, inf, 0.0, default, default), now_s)
        return Decision(None, why)


def _reached(plant: Plant, load: Load, x: float) -> float:
    """The clock that a power limit leaves to pure decoding; mixed iterations, which draw more, solve their own."""
    return under_limit(plant, x, load.running, load.kv, 0.0, plant.limit_w)[0]
