"""CPU power guessed from load, for hosts where nothing measures it. Always marked estimated, always with its error.

The coefficients and their origin lie in cpu_power.json. Four CPU models do not describe the fifth: the error of a CPU
that the fit has not seen is part of every answer.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import msgspec

DATA: Final = Path(__file__).with_name("cpu_power.json")


class Coefficients(msgspec.Struct, frozen=True, kw_only=True):
    """The fitted line and how wrong it is on a CPU that it has not seen."""

    idle_w_per_thread: float
    busy_w_per_thread: float
    error_ratio: float
    worst_error_ratio: float


@functools.cache
def coefficients() -> Coefficients:
    return msgspec.json.decode(DATA.read_bytes(), type=Coefficients)


def power_w(util_ratio: float | None, threads: int) -> float | None:
    """Watts of all packages together; None without a load or without CPUs."""
    if util_ratio is None or threads <= 0:
        return None
    c = coefficients()
    return round(threads * (c.idle_w_per_thread + c.busy_w_per_thread * util_ratio), 1)


def told(threads: int) -> str:
    """What a reader must know of such a number."""
    c = coefficients()
    return (
        f"nothing measures the CPU here: estimated from load over {threads} threads, "
        f"off by {c.error_ratio:.0%} on average and {c.worst_error_ratio:.0%} at worst "
        "on CPUs that the fit had not seen"
    )
