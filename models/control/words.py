"""The local controller's decision in one sentence, from its memory. Says nothing that was not decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.control import memory
from models.control.setpoint import BOUNDS, DRIFT, GAP, LOWEST, TBT, TTFT, WAIT
from models.control.types import ClockBounds, Targets


@dataclass(frozen=True, slots=True)
class Told:
    """What a sentence needs beside the memory. `mhz`: from shares of the highest clock; `default`: such a share.

    `ceiling_w`: the power limit in force where it lies below the device's own; `clean`: windows before a step down.
    """

    mhz: Callable[[float], int]
    default: float
    clean: float
    ceiling_w: float | None = None


def words(
    own: list[float], why: int, before: float, x: float, told: Told, targets: Targets, bounds: ClockBounds
) -> str:
    """One decision: the lock moved from `before` to `x` (shares of the highest clock) for the reason `why`."""
    at = f"{min(bounds.max_mhz, bounds.default_mhz)} MHz"
    if told.ceiling_w is not None:
        at += f" under a power limit of {told.ceiling_w:.0f} W"
    top = f"even at {at}: default clocks"
    wait, first = own[memory.S_WAIT] * 1e3, own[memory.S_FIRST] * 1e3
    if why == LOWEST:
        wanted = told.mhz(own[memory.S_WANTED])
        return f"lowest clock that keeps the targets is {wanted} MHz" + moved(own, before, x, told)
    return {
        BOUNDS: "the bounds hold no clock of the device's grid: default clocks",
        WAIT: f"queue wait {wait:.0f} ms over the target of {targets.ttft_ms or 0:.0f} ms: default clocks",
        TTFT: f"time to first token {first:.0f} ms over {targets.ttft_ms or 0:.0f} ms {top}",
        TBT: f"time between tokens {own[memory.S_GAP] * 1e3:.1f} ms over {targets.tbt_ms or 0:.1f} ms {top}",
        GAP: f"end-to-end over {targets.e2e_ms or 0:.0f} ms {top}",
        DRIFT: "the model does not predict this engine any more: default clocks while it is calibrated anew",
    }[why]


def moved(own: list[float], before: float, x: float, told: Told) -> str:
    """Where the lock went."""
    if x >= told.default - 1e-9:
        if own[memory.S_WANTED] >= told.default - 1e-9:
            return ", the default"
        return f": default clocks until {told.clean:.0f} clean windows have passed"
    if x > before + 1e-9:
        return f": up in one step from {told.mhz(before)} MHz"
    if x < before - 1e-9:
        return f": down from {told.mhz(before)} MHz"
    return ": held"
