"""What a clock would mean for latency: iteration times, wait, first token, whole request. Pure functions of a state."""

from __future__ import annotations

from dataclasses import dataclass

from models.control.learning import Ratios
from models.control.predict import iteration_s
from models.control.profiles import StackProfile
from models.control.types import Targets


@dataclass(frozen=True, slots=True)
class LoadNow:
    """A complete engine state: what a prediction needs."""

    running: int
    waiting_tokens: int
    kv_tokens: int
    prompt_tokens_per_s: float | None


@dataclass(frozen=True, slots=True)
class Latency:
    """Predicted milliseconds at one clock."""

    decode_ms: float
    mixed_ms: float
    wait_ms: float
    ttft_ms: float
    e2e_ms: float

    def broken(self, targets: Targets) -> str | None:
        """The first bound that does not hold, as words; None when all hold."""
        if targets.tbt_ms is not None and max(self.decode_ms, self.mixed_ms) > targets.tbt_ms:
            return f"time between tokens {max(self.decode_ms, self.mixed_ms):.1f} ms over {targets.tbt_ms:.1f} ms"
        if targets.ttft_ms is not None and self.ttft_ms > targets.ttft_ms:
            return f"time to first token {self.ttft_ms:.0f} ms over {targets.ttft_ms:.0f} ms"
        if targets.e2e_ms is not None and self.e2e_ms > targets.e2e_ms:
            return f"end-to-end {self.e2e_ms:.0f} ms over {targets.e2e_ms:.0f} ms"
        return None


def chunk_room(stack: StackProfile, running: int) -> float:
    """Prompt tokens that fit one iteration beside the running sequences."""
    return float(max(stack.chunk_tokens - running, stack.min_prefill_tokens))


def iteration_pair_s(stack: StackProfile, x: float, load: LoadNow) -> tuple[float, float]:
    """Uncorrected seconds of a pure decode and of a full mixed iteration, with one more sequence than now."""
    running = load.running + 1
    decode = iteration_s(stack, x, running=running, kv_tokens=load.kv_tokens, prefill_tokens=0.0)
    room = chunk_room(stack, running)
    mixed = iteration_s(stack, x, running=running, kv_tokens=load.kv_tokens, prefill_tokens=room)
    return decode, mixed


def latency(stack: StackProfile, x: float, load: LoadNow, ratios: Ratios) -> Latency:
    """Predicted latency at clock x: the queue drains in full chunks, then a typical prompt, then a long answer."""
    decode, mixed = iteration_pair_s(stack, x, load)
    decode, mixed = decode * ratios.decode, mixed * ratios.prefill
    room = chunk_room(stack, load.running + 1)
    wait = load.waiting_tokens / room * mixed
    first = wait + stack.typical_prompt_tokens / room * mixed
    busy = min(0.9, (load.prompt_tokens_per_s or 0.0) / room * mixed)  # share of time in mixed iterations
    mean = 1.0 / (busy / mixed + (1.0 - busy) / decode)
    e2e = first + stack.long_output_tokens * mean
    return Latency(decode * 1e3, mixed * 1e3, wait * 1e3, first * 1e3, e2e * 1e3)
