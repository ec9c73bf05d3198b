"""What one engine would do at a clock and under a power limit: latencies and mean watts, by the controller's equations.

Ratios of two outlooks are meant to be used, not their absolute values: what was measured at default clocks times the
ratio is the expectation. Pure functions of a load; no measurement enters here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from models.control.forecast import LoadNow, chunk_room
from models.control.predict import board_w, capped_clock, idle_w, iteration_s
from models.control.profiles import StackProfile

BUSY_MAX: Final = 0.9  # share of time in mixed iterations: at 1 the queue has no end
TAIL_SHARE: Final = 0.01  # a p99 of tokens is a mixed iteration when more than this share of tokens comes from one


@dataclass(frozen=True, slots=True)
class Outlook:
    """Predicted milliseconds, and watts of one GPU in the mean over time."""

    tbt_ms: float
    ttft_ms: float
    e2e_ms: float
    power_w: float


@dataclass(frozen=True, slots=True)
class _Iteration:
    seconds: float
    watts: float


def outlook(stack: StackProfile, x: float, load: LoadNow, limit_w: float) -> Outlook:
    """At clock x (share of the highest) under a power limit, which slows what would draw more."""
    met = load.one_more()
    room = chunk_room(stack, met.running)
    decode, mixed = _iteration(stack, x, met, 0.0, limit_w), _iteration(stack, x, met, room, limit_w)
    busy = min(BUSY_MAX, load.prompt_tokens_per_s / room * mixed.seconds)
    from_mixed = busy / mixed.seconds / (busy / mixed.seconds + (1.0 - busy) / decode.seconds)
    tail_s = mixed.seconds if from_mixed > TAIL_SHARE else decode.seconds
    gap_s = 1.0 / (busy / mixed.seconds + (1.0 - busy) / decode.seconds)
    # A prompt waits for those before it: the nearer prefill comes to all of the time, the more.
    first_s = stack.typical_prompt_tokens / room * mixed.seconds / (1.0 - busy)
    busy_w = busy * mixed.watts + (1.0 - busy) * decode.watts
    active = min(1.0, load.running)
    return Outlook(
        tbt_ms=tail_s * 1e3,
        ttft_ms=first_s * 1e3,
        e2e_ms=(first_s + stack.long_output_tokens * gap_s) * 1e3,
        power_w=active * busy_w + (1.0 - active) * min(limit_w, idle_w(stack.device, x)),
    )


def _iteration(stack: StackProfile, x: float, load: LoadNow, prefill: float, limit_w: float) -> _Iteration:
    running, kv = load.running, load.kv_tokens
    held = capped_clock(stack, x, running=running, kv_tokens=kv, prefill_tokens=prefill, limit_w=limit_w)
    seconds = iteration_s(stack, held, running=running, kv_tokens=kv, prefill_tokens=prefill)
    watts = board_w(stack, held, running=running, kv_tokens=kv, prefill_tokens=prefill, t_s=seconds)
    return _Iteration(seconds, watts)
