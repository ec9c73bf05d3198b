"""What a GPU may be asked for: the device's bounds, the owner's floor and ceiling, the value found before us.

Tighter ceilings clamp, floors refuse: what lies above a ceiling has an obvious safe reading, what lies below a floor is
a mistake whose meaning we must not guess. Pure functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agents.capper.actuators.base import Bounds
from agents.capper.settings import CapperSettings


class NotAllowed(Exception):
    """The value is refused; the text is "code: sentence"."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The value to set and, when it is not the one asked for, why."""

    value: float
    clamped: str = ""


@dataclass(frozen=True, slots=True)
class ClockWindow:
    """The locks that a lease allows, MHz."""

    low: int
    high: int
    clamped: str = ""


def power_floor(bounds: Bounds, settings: CapperSettings) -> float:
    """The lowest limit that may be set, watts."""
    return max(bounds.minimum, settings.power_floor_w or 0.0)


def allowed_power(
    wanted: float, *, bounds: Bounds, settings: CapperSettings, previous: float, current: float
) -> Allowed:
    """The limit to set for a wanted one, watts. Raises NotAllowed."""
    _check_power(wanted, bounds, settings)
    ceilings = [
        (wanted, ""),
        (bounds.maximum, "the device's maximum"),
        (settings.power_ceiling_w or math.inf, "the owner's ceiling"),
        (previous, "the value found before us"),
    ]
    value, clamped = min(ceilings, key=lambda ceiling: ceiling[0])
    step = settings.max_step_w
    if step is not None and current - value > step:
        value, clamped = current - step, f"one step of {step:g} W"
    # Devices count milliwatts: a value between two of them would never read back as itself.
    return Allowed(round(value, 3), f"{wanted:g} W held to {value:g} W, {clamped}" if clamped else "")


def _check_power(wanted: float, bounds: Bounds, settings: CapperSettings) -> None:
    if not math.isfinite(wanted) or wanted <= 0:
        raise NotAllowed(f"value: {wanted:g} W is not a power limit")
    if wanted > 2 * bounds.maximum:
        raise NotAllowed(f"unit: {wanted:g} W is more than twice the device's {bounds.maximum:g} W; is it milliwatts?")
    ceiling = settings.power_ceiling_w
    if ceiling is not None and ceiling < bounds.minimum:
        raise NotAllowed(
            f"ceiling: the owner's ceiling, {ceiling:g} W, is below the device's minimum, {bounds.minimum:g} W; raise "
            "power_ceiling_w to at least that, or ask for clocks only"
        )
    floor = power_floor(bounds, settings)
    if wanted < floor:
        whose = "the device's minimum" if floor == bounds.minimum else "the owner's floor"
        raise NotAllowed(f"floor: {wanted:g} W is below {floor:g} W, {whose}")


def allowed_clocks(
    low: int | None, high: int | None, *, bounds: Bounds, settings: CapperSettings, previous: float | None
) -> ClockWindow:
    """The window of locks for a wanted one, MHz; a missing end is the device's own. Raises NotAllowed."""
    floor = math.ceil(max(bounds.minimum, settings.sm_floor_mhz or 0))
    ceiling = math.floor(min(bounds.maximum, previous if previous is not None else math.inf))
    asked_low, asked_high = floor if low is None else low, ceiling if high is None else high
    if asked_low > asked_high:
        raise NotAllowed(f"value: {asked_low} to {asked_high} MHz is no range")
    if asked_high < floor:
        raise NotAllowed(f"floor: {asked_high} MHz is below {floor} MHz, the lowest lock allowed here")
    if asked_high > 2 * bounds.maximum:
        raise NotAllowed(f"unit: {asked_high} MHz is more than twice the device's {bounds.maximum:g} MHz")
    if ceiling < floor:
        raise NotAllowed(
            f"ceiling: the lock found before us, {ceiling} MHz, is below {floor} MHz, the lowest allowed here"
        )
    window = min(max(asked_low, floor), ceiling), min(asked_high, ceiling)
    if bounds.grid and not any(window[0] <= step <= window[1] for step in bounds.grid):
        raise NotAllowed(f"value: the device has no clock within {window[0]}-{window[1]} MHz")
    same = window == (asked_low, asked_high)
    text = "" if same else f"{asked_low}-{asked_high} MHz held to {window[0]}-{window[1]} MHz, the bounds of this GPU"
    return ClockWindow(*window, text)


def snap(mhz: int, window: ClockWindow, grid: tuple[float, ...]) -> float:
    """The grid's lowest clock at or above the wanted one (latency first), else its highest within the window.

    `allowed_clocks` has made sure that the window holds a clock of the grid.
    """
    if not grid:
        return float(mhz)
    inside = [step for step in grid if window.low <= step <= window.high]
    return min((step for step in inside if step >= mhz), default=max(inside))
