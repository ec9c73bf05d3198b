"""What a clock would mean for latency: iteration times, wait, first token, whole request. Pure functions of a load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import Final

from models.control.learning import Ratios
from models.control.predict import capped_clock, iteration_s
from models.control.profiles import StackProfile
from models.control.types import Targets

E2E_SLACK: Final = 1.05  # on the prediction at default clocks, where that already misses the end-to-end target
_BUSY_MAX: Final = 0.9  # share of time in mixed iterations: at 1 the queue has no end


@dataclass(frozen=True, slots=True)
class LoadNow:
    """A complete engine state: what a prediction needs."""

    running: float
    waiting_tokens: float
    kv_tokens: float
    prompt_tokens_per_s: float

    def one_more(self) -> LoadNow:
        """With the next request already running: what it will meet."""
        return LoadNow(self.running + 1, self.waiting_tokens, self.kv_tokens, self.prompt_tokens_per_s)

    def towards(self, newer: LoadNow, share: float) -> LoadNow:
        """Moved to a newer load by a share: an exponential mean."""
        return LoadNow(
            self.running + share * (newer.running - self.running),
            self.waiting_tokens + share * (newer.waiting_tokens - self.waiting_tokens),
            self.kv_tokens + share * (newer.kv_tokens - self.kv_tokens),
            self.prompt_tokens_per_s + share * (newer.prompt_tokens_per_s - self.prompt_tokens_per_s),
        )


@dataclass(frozen=True, slots=True)
class Latency:
    """Predicted milliseconds at one clock."""

    tbt_ms: float
    wait_ms: float
    ttft_ms: float
    e2e_ms: float

    def broken(self, targets: Targets) -> str | None:
        """The first bound that does not hold, as words; None when all hold. A NaN bound never holds."""
        if targets.tbt_ms is not None and not self.tbt_ms <= targets.tbt_ms:
            return f"time between tokens {self.tbt_ms:.1f} ms over {targets.tbt_ms:.1f} ms"
        if targets.ttft_ms is not None and not self.ttft_ms <= targets.ttft_ms:
            return f"time to first token {self.ttft_ms:.0f} ms over {targets.ttft_ms:.0f} ms"
        if targets.e2e_ms is not None and not self.e2e_ms <= targets.e2e_ms:
            return f"end-to-end {self.e2e_ms:.0f} ms over {targets.e2e_ms:.0f} ms"
        return None


def chunk_room(stack: StackProfile, running: float) -> float:
    """Prompt tokens that fit one iteration beside the running sequences."""
    return max(stack.chunk_tokens - running, float(stack.min_prefill_tokens))


def iteration_pair_s(stack: StackProfile, x: float, load: LoadNow) -> tuple[float, float]:
    """Uncorrected seconds of a pure decode and of a full mixed iteration at clock x."""
    running, kv = load.running, load.kv_tokens
    room = chunk_room(stack, running)
    decode = iteration_s(stack, x, running=running, kv_tokens=kv, prefill_tokens=0.0)
    return decode, iteration_s(stack, x, running=running, kv_tokens=kv, prefill_tokens=room)


def expected_pair_s(stack: StackProfile, x: float, load: LoadNow) -> tuple[float, float]:
    """As iteration_pair_s, the mixed one under the device's default power limit: what a measurement should show."""
    running, kv = load.running, load.kv_tokens
    room = chunk_room(stack, running)
    limit = stack.device.limit_default_w
    held = capped_clock(stack, x, running=running, kv_tokens=kv, prefill_tokens=room, limit_w=limit)
    decode = iteration_s(stack, x, running=running, kv_tokens=kv, prefill_tokens=0.0)
    return decode, iteration_s(stack, held, running=running, kv_tokens=kv, prefill_tokens=room)


def latency(stack: StackProfile, x: float, *, load: LoadNow, slow: LoadNow | None, ratios: Ratios) -> Latency:
    """Predicted latency at clock x: the queue drains in full chunks, then a typical prompt, then a long answer.

    `slow` is the mean load over a long answer's duration, because a momentary burst does not last that long; None
    when nobody asks for the end-to-end time, which is then not a number.
    """
    decode, mixed = iteration_pair_s(stack, x, load)
    decode, mixed = decode * ratios.decode, mixed * ratios.prefill
    room = chunk_room(stack, load.running)
    wait = load.waiting_tokens / room * mixed
    first = stack.typical_prompt_tokens / room * mixed
    answer = nan if slow is None else first + stack.long_output_tokens * mean_gap_s(stack, x, slow, ratios)
    return Latency(max(decode, mixed) * 1e3, wait * 1e3, (wait + first) * 1e3, answer * 1e3)


def mean_gap_s(stack: StackProfile, x: float, load: LoadNow, ratios: Ratios) -> float:
    """Mean seconds between tokens when prompts arrive at the load's rate."""
    decode, mixed = iteration_pair_s(stack, x, load)
    decode, mixed = decode * ratios.decode, mixed * ratios.prefill
    busy = min(_BUSY_MAX, load.prompt_tokens_per_s / chunk_room(stack, load.running) * mixed)
    return 1.0 / (busy / mixed + (1.0 - busy) / decode)


def reachable(targets: Targets, at_default: Latency) -> Targets:
    """Targets with an end-to-end bound in proportion where the profile's long answer does not fit the workload's."""
    if targets.e2e_ms is None:
        return targets
    return replace(targets, e2e_ms=max(targets.e2e_ms, E2E_SLACK * at_default.e2e_ms))
