"""What a strategy would do for one group of engines: bounds, a cap where one is asked for, expected watts and p99, why.

Everything expected is an estimate: the hold-out's measured value times a predicted ratio. Where a measurement or a
profile is missing the answer is None with its reason, never a guess. It recommends; granting stays with the arbiter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

from models.control.forecast import LoadNow, chunk_room
from models.control.predict import capped_clock
from models.control.profiles import StackProfile, profile_for
from models.policy.arbiter import Device, Facts, Grant, decide, within
from models.policy.extrapolation import beyond, mark
from models.policy.outlook import Outlook, outlook
from models.policy.strategies import METRICS, Metric, Strategy

Confidence = Literal["none", "low", "medium", "high"]
MIN_SAMPLES: Final[dict[Metric, int]] = {"tbt": 1000, "ttft": 100, "e2e": 100}
AGREES: Final = 0.05  # prediction and measurement of the strategy in force differ by at most this share
_BISECTIONS: Final = 10
WORDS: Final[dict[Metric, str]] = {
    "tbt": "time between tokens",
    "ttft": "time to first token",
    "e2e": "request duration",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """Constraints of the caller; None = none. `cap_w` is watts of one GPU."""

    cap_w: float | None = None
    min_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What was measured of one group: engines of one stack, workload and device model, the hold-out left out.

    `loads` has one entry per engine, None where the engine does not say enough. Watts are means of one GPU.
    """

    stack: str
    workload: str
    device: Device
    loads: Sequence[LoadNow | None]
    gpus: int
    power_w: float | None
    holdout_w: float | None
    holdout_p99_ms: Mapping[Metric, float | None]
    holdout_samples: Mapping[Metric, int]
    p99_ms: Mapping[Metric, float | None]
    strategy_in_force: str | None = None  # None = nothing is granted to the group now


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommendation for one group. None = unknown, or nothing for that knob."""

    feasible: bool
    min_sm_mhz: int | None
    max_sm_mhz: int | None
    power_cap_w: float | None
    expected_sm_mhz: float | None  # mean over engines of the lowest clock that keeps the bounds
    expected_w: float | None
    baseline_w: float | None
    expected_change_ratio: float | None
    expected_p99_ms: Mapping[Metric, float | None]
    bound_ms: Mapping[Metric, float | None]
    replicas: int
    confidence: Confidence
    confidence_reason: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """One engine: the clock that it would run at, and the ratios of its outlook to that at default."""

    mhz: int
    held_ratio: float  # share of the highest clock that the limit leaves to its fullest iteration
    power: tuple[float, float]
    ratios: Mapping[Metric, float]


def recommend(facts: GroupFacts, strategy: Strategy, wish: Wish) -> Advice:
    """The advice for one group under a strategy and the caller's constraints."""
    obstacle = _obstacle(facts, strategy)
    grant = _grant(facts, strategy, wish, obstacle)
    profile = profile_for(facts.stack)
    loads = [load for load in facts.loads if load is not None]
    if obstacle is not None or profile is None or not loads or grant.max_sm_mhz is None:
        return _blind(facts, strategy, wish, grant, _unknown(facts, profile, loads, obstacle))
    limit_w = _limit_w(facts.device, profile, strategy, wish)
    plans = [_plan(profile, load, facts, strategy, limit_w, grant) for load in loads]
    if any(plan is None for plan in plans):
        return _infeasible(facts, strategy, wish, profile, loads)
    return _advice(facts, strategy, wish, grant, [plan for plan in plans if plan is not None])


def _grant(facts: GroupFacts, strategy: Strategy, wish: Wish, obstacle: str | None) -> Grant:
    """What the arbiter itself would grant to a GPU of this group: the one place where bounds are decided."""
    engine = f"{facts.stack} ({facts.workload})" if facts.loads else None
    asked = wish.cap_w
    ceiling = facts.device.limit_default_w
    if asked is not None and ceiling is not None and strategy.power_ceiling_ratio < 1.0:
        asked = min(asked, ceiling * strategy.power_ceiling_ratio)
    return decide(Facts(facts.device, engine=engine, cap_w=asked, latency=obstacle), strategy)


def _limit_w(device: Device, profile: StackProfile, strategy: Strategy, wish: Wish) -> float:
    default = device.limit_default_w or profile.device.limit_default_w
    asked = min(default * strategy.power_ceiling_ratio, default if wish.cap_w is None else wish.cap_w)
    return within(asked, device)


def _obstacle(facts: GroupFacts, strategy: Strategy) -> str | None:
    """Why latency forbids any promise; None when every bound of the strategy has a number."""
    for metric in strategy.required() if facts.loads else ():
        known = facts.holdout_p99_ms.get(metric)
        samples = facts.holdout_samples.get(metric, 0)
        if known is None or samples < MIN_SAMPLES[metric]:
            return (
                f"The hold-out has {samples} of {MIN_SAMPLES[metric]} samples of {WORDS[metric]} for {facts.stack}, so "
                "no latency can be promised."
            )
    return None


def _plan(
    profile: StackProfile, load: LoadNow, facts: GroupFacts, strategy: Strategy, limit_w: float, grant: Grant
) -> _Plan | None:
    """The lowest clock of the grant that keeps every bound; None when not even the highest does."""
    assert grant.max_sm_mhz is not None and grant.min_sm_mhz is not None
    default_w = facts.device.limit_default_w or profile.device.limit_default_w
    base = outlook(profile, 1.0, load, default_w)
    allowed = _allowed(facts, strategy)
    step, top = int(profile.device.step_mhz), grant.max_sm_mhz
    # Ratios to the device's own highest clock: the profile's curve is in shares of it.
    grid = [*range(ceil(grant.min_sm_mhz / step) * step, top, step), top]

    def at(mhz: int) -> Outlook:
        return outlook(profile, min(1.0, mhz / top), load, limit_w)

    def holds(mhz: int) -> bool:
        seen = _ratios(at(mhz), base)
        return all(seen[metric] <= most for metric, most in allowed.items())

    if not holds(grid[-1]):
        return None
    low, high = 0, len(grid) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(grid[middle]) else (middle + 1, high)
    chosen = at(grid[high])
    held = _held(profile, load, min(1.0, grid[high] / top), limit_w)
    return _Plan(grid[high], held, (chosen.power_w, base.power_w), _ratios(chosen, base))


def _held(profile: StackProfile, load: LoadNow, x: float, limit_w: float) -> float:
    met = load.one_more()
    return capped_clock(
        profile,
        x,
        running=met.running,
        kv_tokens=met.kv_tokens,
        prefill_tokens=chunk_room(profile, met.running),
        limit_w=limit_w,
    )


def _ratios(now: Outlook, base: Outlook) -> dict[Metric, float]:
    return {
        "tbt": now.tbt_ms / base.tbt_ms,
        "ttft": now.ttft_ms / base.ttft_ms,
        "e2e": now.e2e_ms / base.e2e_ms,
    }


def _allowed(facts: GroupFacts, strategy: Strategy) -> dict[Metric, float]:
    """How far each predicted latency may rise: the target against the hold-out's p99."""
    allowed: dict[Metric, float] = {}
    for metric in METRICS:
        p99 = facts.holdout_p99_ms.get(metric)
        target = strategy.bound(metric).target_ms(p99)
        if target is not None and p99:
            allowed[metric] = max(1.0, target / p99)
    return allowed


def _advice(facts: GroupFacts, strategy: Strategy, wish: Wish, grant: Grant, plans: Sequence[_Plan]) -> Advice:
    ratio = sum(plan.power[0] for plan in plans) / sum(plan.power[1] for plan in plans)
    baseline = facts.holdout_w if facts.holdout_w is not None else _own_default_w(facts)
    expected = None if baseline is None else baseline * ratio
    level, why = _confidence(facts, strategy, wish, expected)
    running = [load.running for load in facts.loads if load is not None]
    leans = beyond(facts.stack, running=running, clock_ratios=[plan.held_ratio for plan in plans])
    if leans:
        level, why = "low", f"{mark(leans)} {why}"
    mean_mhz = sum(plan.mhz for plan in plans) / len(plans)
    p99: dict[Metric, float | None] = {}
    for metric in METRICS:
        base = facts.holdout_p99_ms.get(metric)
        p99[metric] = None if base is None else base * max(plan.ratios[metric] for plan in plans)
    return Advice(
        feasible=True,
        min_sm_mhz=grant.min_sm_mhz,
        max_sm_mhz=grant.max_sm_mhz,
        power_cap_w=grant.max_power_w,
        expected_sm_mhz=mean_mhz,
        expected_w=expected,
        baseline_w=baseline,
        expected_change_ratio=ratio - 1.0,
        expected_p99_ms=p99,
        bound_ms=_bounds(facts, strategy),
        replicas=len(facts.loads),
        confidence=level,
        confidence_reason=why,
        reason=f"{grant.reason} At the present load that is {mean_mhz:.0f} MHz in the mean.{_replicas(facts, wish)}",
    )


def _own_default_w(facts: GroupFacts) -> float | None:
    """The group's own watts are a baseline only while nothing is granted to it."""
    return facts.power_w if facts.strategy_in_force is None else None


def _bounds(facts: GroupFacts, strategy: Strategy) -> dict[Metric, float | None]:
    return {metric: strategy.bound(metric).limit_ms(facts.holdout_p99_ms.get(metric)) for metric in METRICS}


def _confidence(facts: GroupFacts, strategy: Strategy, wish: Wish, expected: float | None) -> tuple[Confidence, str]:
    if expected is None:
        return "low", "Neither a hold-out nor an uncontrolled group has known watts, so only the change is expected."
    unknown = sum(load is None for load in facts.loads)
    if unknown * 2 > len(facts.loads):
        return "low", f"{unknown} of {len(facts.loads)} engines do not report their load."
    if facts.strategy_in_force == strategy.name and wish.cap_w is None and facts.power_w:
        off = abs(expected / facts.power_w - 1.0)
        words = f"{off * 100:.1f} % from what the group draws now under this strategy ({facts.power_w:.0f} W)"
        return ("high", f"The prediction is {words}.") if off <= AGREES else ("low", f"The prediction is {words}.")
    basis = "the hold-out's measured watts" if facts.holdout_w is not None else "the group's own watts at default"
    return "medium", f"Predicted ratios on {basis}; this strategy is not in force here, so nothing confirms them yet."


def _infeasible(
    facts: GroupFacts, strategy: Strategy, wish: Wish, profile: StackProfile, loads: Sequence[LoadNow]
) -> Advice:
    """Bounds that the constraint breaks even at the highest clock: say the lowest cap that would keep them."""
    least = _lowest_cap_w(facts, strategy, profile, loads)
    if wish.cap_w is None:
        why = "Not even the highest clock keeps the strategy's latency bounds at the present load."
    elif least is None:
        why = f"A cap of {wish.cap_w:g} W would break the latency bounds, and so would every cap below the default."
    else:
        why = f"A cap of {wish.cap_w:g} W would break the latency bounds of {strategy.name}; {least:.0f} W keeps them."
    return _empty(facts, strategy, wish, feasible=False, confidence="medium", note="Predicted ratios.", reason=why)


def _lowest_cap_w(
    facts: GroupFacts, strategy: Strategy, profile: StackProfile, loads: Sequence[LoadNow]
) -> float | None:
    """The lowest limit under which every engine keeps the bounds at the highest clock; None when only the default."""
    default = facts.device.limit_default_w or profile.device.limit_default_w
    allowed = _allowed(facts, strategy)
    bases = [(load, outlook(profile, 1.0, load, default)) for load in loads]

    def keeps(limit_w: float) -> bool:
        for load, base in bases:
            seen = _ratios(outlook(profile, 1.0, load, limit_w), base)
            if any(seen[metric] > most for metric, most in allowed.items()):
                return False
        return True

    low, high = facts.device.limit_min_w or profile.device.limit_min_w, default
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return None if high >= default else float(ceil(high))


def _unknown(facts: GroupFacts, profile: StackProfile | None, loads: Sequence[LoadNow], obstacle: str | None) -> str:
    if obstacle is not None:
        return obstacle
    if not facts.loads:
        return "No engine reports latency on these GPUs, so clocks stay free and no latency can be expected."
    if profile is None:
        return f"Nothing is known of stack {facts.stack} (no profile), so what a clock would cost cannot be predicted."
    if not loads:
        return f"None of the {len(facts.loads)} engines reports its load, so nothing can be predicted."
    return "The highest clock of this device is unknown, so nothing can be predicted."


def _blind(facts: GroupFacts, strategy: Strategy, wish: Wish, grant: Grant, why: str) -> Advice:
    """Without a prediction: nothing but a cap for GPUs that serve no engine, whose watts it can only lower."""
    cap = grant.max_power_w if not facts.loads else None
    empty = _empty(facts, strategy, wish, feasible=True, confidence="none", note=why, reason=why)
    if cap is None:
        return empty
    # A GPU without an engine: a limit can only take watts away, and takes none below it.
    expected = None if facts.power_w is None else min(facts.power_w, cap)
    change = None if expected is None or not facts.power_w else expected / facts.power_w - 1.0
    return Advice(
        feasible=True,
        min_sm_mhz=None,
        max_sm_mhz=None,
        power_cap_w=cap,
        expected_sm_mhz=None,
        expected_w=expected,
        baseline_w=facts.power_w,
        expected_change_ratio=change,
        expected_p99_ms=empty.expected_p99_ms,
        bound_ms=empty.bound_ms,
        replicas=0,
        confidence="low",
        confidence_reason="The mean of the present watts, cut at the cap; peaks are not seen.",
        reason=f"{grant.reason} {why}",
    )


def _empty(
    facts: GroupFacts, strategy: Strategy, wish: Wish, *, feasible: bool, confidence: Confidence, note: str, reason: str
) -> Advice:
    return Advice(
        feasible=feasible,
        min_sm_mhz=None,
        max_sm_mhz=None,
        power_cap_w=None,
        expected_sm_mhz=None,
        expected_w=None,
        baseline_w=facts.holdout_w,
        expected_change_ratio=None,
        expected_p99_ms=dict.fromkeys(METRICS),
        bound_ms=_bounds(facts, strategy),
        replicas=len(facts.loads),
        confidence=confidence,
        confidence_reason=note,
        reason=f"{reason}{_replicas(facts, wish)}",
    )


def _replicas(facts: GroupFacts, wish: Wish) -> str:
    if wish.min_replicas is None or not facts.loads:
        return ""
    have, least = len(facts.loads), wish.min_replicas
    if have < least:
        return f" The group has {have} replicas, fewer than the {least} asked for; this release starts none."
    return f" The group keeps its {have} replicas (at least {least} asked for); this release stops none."
