"""Arbitration: what one GPU is granted, and the one sentence that says why.

Order: safety (a breaker's row is part of it) > a human's hold > latency > power budget > energy. Each layer either ends
the matter or leaves it to the next one; a lower layer never undoes a higher one. An anomaly enters as `frozen` and can
only take away what this program chose, which puts the GPU back to its own default: there is no path by which it lowers
a value. A score is no safety rule, so it stands below what a human said: a freeze takes the clocks and leaves a human's
cap or power budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from models.policy.strategies import Strategy

Layer = Literal["safety", "human", "holdout", "canary", "latency", "budget", "energy"]
SM_STEP_MHZ: Final = 15  # NVIDIA's clock grid; the capper snaps to the device's own


@dataclass(frozen=True, slots=True)
class Device:
    """Bounds of a GPU as far as they are known. Watts and MHz; None = unknown."""

    sm_max_mhz: int | None = None
    limit_default_w: float | None = None
    limit_min_w: float | None = None
    limit_max_w: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that bears on one GPU's grant. Texts are reasons; None means that the matter does not arise."""

    device: Device
    engine: str | None = None
    holdout: bool = False
    guest: bool = False  # held out only while its engine has a GPU that is so for ever
    canary: bool = True  # inside the share that may be granted; always true outside mode canary
    blocked: str | None = None  # safety: foreign change, not actuatable, telemetry too old
    frozen: str | None = None  # an anomaly verdict: takes away what this program chose, not what a human did
    paused: str | None = None  # a human's pause
    cap_w: float | None = None  # a human's cap
    cap_reason: str = ""
    latency: str | None = None  # why latency forbids any grant now
    budget_w: float | None = None  # this GPU's share of a power budget
    training: bool = False  # a training job: its node bounds the slowdown of its steps, there is no latency
    pid_w: float | None = None  # the limit of the PID on a power target, where that mode is chosen
    row_w: float | None = None  # this GPU's ceiling in a row whose breaker is protected
    row: str = ""


@dataclass(frozen=True, slots=True)
class Grant:
    """Bounds granted to one GPU; None = nothing for that knob: the GPU stays at, or returns to, its own value."""

    min_sm_mhz: int | None
    max_sm_mhz: int | None
    max_power_w: float | None
    layer: Layer
    reason: str

    @property
    def empty(self) -> bool:
        return self.max_sm_mhz is None and self.max_power_w is None


def outside_rows(facts: Facts) -> bool:
    """Whether no ceiling reaches this GPU: it is at its own limit, and a row counts it with that."""
    return facts.blocked is not None or facts.holdout or facts.paused is not None or not facts.canary


def decide(facts: Facts, strategy: Strategy) -> Grant:
    """The grant of one GPU: within the device's bounds where these are known, with its reason.

    A row's ceiling protects a breaker: it is part of safety, so it stays under a human's cap, a rollback and a freeze,
    none of which may raise what the others of the row pay for.
    """
    grant = _decide(facts, strategy)
    if facts.row_w is None or outside_rows(facts):
        return grant
    limit = within(facts.row_w, facts.device)
    if grant.max_power_w is not None and grant.max_power_w <= limit:
        return grant
    reason = f"Row {facts.row}: at most {limit:.0f} W for this GPU, its share of the breaker's budget. {grant.reason}"
    return Grant(grant.min_sm_mhz, grant.max_sm_mhz, limit, "budget", reason)


def _decide(facts: Facts, strategy: Strategy) -> Grant:
    if (nothing := _refusal(facts)) is not None:
        return nothing
    if facts.cap_w is not None:
        return _capped(facts, strategy)
    if facts.latency is not None:
        return _nothing("latency", facts.latency)
    if facts.frozen is not None and facts.budget_w is not None:
        limit = within(facts.budget_w, facts.device)
        return Grant(None, None, limit, "budget", f"Power budget: at most {limit:.0f} W for this GPU. {facts.frozen}")
    clocks, watts = _clocks(facts, strategy), _ceiling_w(facts.device, strategy)
    if facts.pid_w is not None:
        clocks, watts = (None, None), float(round(within(facts.pid_w, facts.device)))
    if facts.training and facts.pid_w is None and watts is None and clocks[1] is not None:
        watts = facts.device.limit_default_w  # changes nothing by itself: its node may choose a limit below it
    if facts.budget_w is not None and (watts is None or facts.budget_w < watts):
        limit = within(facts.budget_w, facts.device)
        return Grant(*clocks, limit, "budget", f"Power budget: at most {limit:.0f} W for this GPU.")
    return Grant(*clocks, watts, "energy", _energy_reason(facts, strategy, clocks, watts))


def within(watts: float, device: Device) -> float:
    """A wanted power limit inside [minimum, default] of the device, as far as these are known; never above default."""
    low = device.limit_min_w if device.limit_min_w is not None else 0.0
    high = device.limit_default_w if device.limit_default_w is not None else device.limit_max_w
    return max(low, watts if high is None else min(watts, high))


def _refusal(facts: Facts) -> Grant | None:
    if facts.blocked is not None:
        return _nothing("safety", facts.blocked)
    if facts.holdout and facts.guest:
        return _nothing(
            "holdout",
            f"Hold-out: engine {facts.engine} also runs on a GPU that stays at default for ever, so this one "
            "stays there too until its next placing.",
        )
    if facts.holdout:
        return _nothing("holdout", "Hold-out: this GPU stays at default for ever, savings are measured against it.")
    if facts.paused is not None:
        return _nothing("human", facts.paused)
    if facts.frozen is not None and facts.cap_w is None and facts.budget_w is None:
        return _nothing("safety", facts.frozen)
    if not facts.canary and facts.cap_w is None:
        return _nothing("canary", "Mode canary: this GPU is outside the share that is granted, so it stays at default.")
    return None


def _capped(facts: Facts, strategy: Strategy) -> Grant:
    assert facts.cap_w is not None
    watts = within(facts.cap_w, facts.device)
    changed = "" if watts == facts.cap_w else f" (asked {facts.cap_w:.0f} W, outside the device's range)"
    free = facts.latency is not None or facts.frozen is not None or not facts.canary
    clocks = (None, None) if free else _clocks(facts, strategy)
    why = f": {facts.cap_reason}" if facts.cap_reason else ""
    reason = f"A human's cap of {watts:.0f} W{changed}{why}".rstrip(".") + "."
    if facts.frozen is not None:
        reason += f" {facts.frozen} The cap stays, because a score does not undo a human's hold."
    return Grant(*clocks, watts, "human", reason)


def _clocks(facts: Facts, strategy: Strategy) -> tuple[int | None, int | None]:
    # Without an engine there is no latency signal, and a clock must not be lowered blindly.
    top = facts.device.sm_max_mhz
    if facts.engine is None or top is None:
        return None, None
    floor = math.ceil(top * strategy.sm_floor_ratio / SM_STEP_MHZ) * SM_STEP_MHZ
    return min(floor, top), top


def _ceiling_w(device: Device, strategy: Strategy) -> float | None:
    if strategy.power_ceiling_ratio >= 1.0 or device.limit_default_w is None:
        return None
    return within(float(round(device.limit_default_w * strategy.power_ceiling_ratio)), device)


def _energy_reason(facts: Facts, strategy: Strategy, clocks: tuple[int | None, int | None], watts: float | None) -> str:
    if facts.pid_w is not None and watts is not None:
        return f"PID on a power target: at most {watts:.0f} W, clocks stay free (pid: blind to latency)."
    if facts.device == Device():
        return "The bounds of this device are unknown, so nothing is granted."
    ceiling = "the default power limit" if watts is None else f"at most {watts:.0f} W"
    if clocks[1] is None:
        return f"Strategy {strategy.name}: no engine reports latency here, so clocks stay free, with {ceiling}."
    if facts.training:
        return (
            f"Strategy {strategy.name}: {clocks[0]}-{clocks[1]} MHz for the training job {facts.engine}, whose "
            f"node keeps the bound on its slowdown by clocks or limits, with {ceiling}."
        )
    return (
        f"Strategy {strategy.name}: the lowest clock in {clocks[0]}-{clocks[1]} MHz that keeps the latency targets of "
        f"{facts.engine}, with {ceiling}."
    )


def _nothing(layer: Layer, reason: str) -> Grant:
    return Grant(None, None, None, layer, reason)
