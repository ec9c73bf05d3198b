"""Rules that give the default clocks back at once, whatever the model predicts. Each returns its sentence or None."""

from __future__ import annotations

from math import isfinite
from typing import Final

from models.control.types import EngineState, Targets

STALE_S: Final = 2.0
MOST: Final = 1e12  # of anything that an engine counts: more is no load but nonsense

# NVML clocks event reasons (nvml.h): hardware slowdown, software thermal, hardware thermal, power brake.
HEAT_OR_BRAKE: Final = 0x8 | 0x20 | 0x40 | 0x80


def no_target(targets: Targets) -> str | None:
    """Without any bound, or with one that cannot be, there is nothing that a lower clock could be judged by."""
    given = [value for value in (targets.tbt_ms, targets.ttft_ms, targets.e2e_ms) if value is not None]
    if not given:
        return "no latency target is known: default clocks"
    for value in given:
        if not value > 0.0:  # NaN too
            return f"a latency target of {value:g} ms cannot be kept at any clock: default clocks"
    return None


def heat_or_brake(throttle: int) -> str | None:
    """The device protects itself: do not add to it."""
    if throttle & HEAT_OR_BRAKE:
        return f"thermal or power-brake reason 0x{throttle & HEAT_OR_BRAKE:x} is set: default clocks"
    return None


def no_signal(state: EngineState | None) -> str | None:
    """No engine signal, an incomplete one, an impossible one, or one older than STALE_S."""
    if state is None:
        return "no engine signal: default clocks"
    if not -STALE_S <= state.age_s <= STALE_S:
        return f"engine signal is {state.age_s:.1f} s old, bound {STALE_S:g} s: default clocks"
    if state.running is None or state.waiting_tokens is None or state.kv_tokens is None:
        return "engine signal lacks running, waiting tokens or KV tokens: default clocks"
    for name, value in (
        ("running", state.running),
        ("waiting tokens", state.waiting_tokens),
        ("KV tokens", state.kv_tokens),
    ):
        if not (isfinite(value) and 0 <= value <= MOST):
            return f"engine signal says {value:g} {name}, which cannot be: default clocks"
    return None
