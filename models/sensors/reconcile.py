"""Several sensors of one thing: whether they disagree, who is believed, and why in one sentence.

A score never decides here. Disagreement is a reason to freeze and to alert; it never lowers a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.sensors.bounds import Kind, check_power
from models.sensors.types import Belief, Quality

AGREE_RATIO = 0.10  # two sensors of 5 % tolerance each
AGREE_W = 15.0  # below about 150 W a share of the power says little
STALE_S = 30.0  # a BMC refreshes once in some seconds; an older value is no witness of now
WHOLE_SLACK = 1.05  # parts may exceed their whole by the sensors' tolerance
# Nearer to the device and faster first. An estimate is never preferred to a measurement.
TRUST = ("nvml", "dcgm", "nvidia-smi", "rapl", "hwmon", "redfish", "ipmi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """One sensor's word on a quantity."""

    source: str
    power_w: float | None
    age_s: float = 0.0
    quality: Quality = "measured"


def disagreement(power_w_a: float | None, power_w_b: float | None) -> float | None:
    """How far two readings of one thing are apart, in units of what is allowed: above 1.0 they disagree.

    Allowed are 10 % of the higher one, or 15 W where that is more. None when one is unknown.
    """
    if power_w_a is None or power_w_b is None:
        return None
    return abs(power_w_a - power_w_b) / max(AGREE_RATIO * max(power_w_a, power_w_b), AGREE_W)


def reconcile(
    witnesses: Sequence[Witness], *, kind: Kind = "gpu", limit_w: float | None = None, counter_w: float | None = None
) -> Belief:
    """The power to use.

    Args:
        witnesses: every sensor of this one thing.
        kind, limit_w: for what it can draw at all.
        counter_w: mean power by the energy counter over the last seconds, the arbiter where two disagree.
    """
    notes, usable = [], []
    for witness in witnesses:
        checked = check_power(witness.power_w, kind=kind, limit_w=limit_w)
        if checked.warning is not None:
            notes.append(f"{witness.source}: {checked.warning}")
        elif checked.power_w is not None and witness.age_s > STALE_S:
            notes.append(f"{witness.source} is {witness.age_s:.0f} s old, more than {STALE_S:.0f} s, and not heard.")
        elif checked.power_w is not None:
            usable.append(witness)
    if not usable:
        return _belief(None, None, " ".join(notes) or "No sensor gave a power.")
    usable.sort(key=_rank)
    first = usable[0]
    if len(usable) == 1:
        return _belief(first, None, _sentence(f"Only {first.source} gave a usable power.", notes))
    apart = max(disagreement(first.power_w, other.power_w) or 0.0 for other in usable[1:])
    if apart <= 1.0:
        return _belief(first, apart, _sentence(f"All agree; {first.source} is nearest to the device.", notes))
    return _contested(usable, apart, counter_w, notes)


def _contested(usable: Sequence[Witness], apart: float, counter_w: float | None, notes: list[str]) -> Belief:
    told = " and ".join(f"{one.source} {one.power_w:.0f} W" for one in usable)
    if counter_w is not None:
        by_counter = min(usable, key=lambda one: disagreement(one.power_w, counter_w) or 0.0)
        if (disagreement(by_counter.power_w, counter_w) or 0.0) <= 1.0:
            why = f"{told} disagree; {by_counter.source} is believed, the energy counter says {counter_w:.0f} W."
            return _belief(by_counter, apart, _sentence(why, notes))
    moving = [one for one in usable if one.power_w]
    if len(moving) == 1:
        why = f"{told} disagree; {moving[0].source} is believed, a powered device does not draw 0 W."
        return _belief(moving[0], apart, _sentence(why, notes))
    highest = max(usable, key=lambda one: one.power_w or 0.0)
    why = (
        f"{told} disagree and nothing tells who is right; {highest.source} is taken, the higher one keeps budgets safe."
    )
    return _belief(highest, apart, _sentence(why, notes), sure=False)


def parts_against_whole(
    parts_w: Sequence[float | None], whole_w: float | None, *, whole: str = "the chassis"
) -> Belief:
    """Parts that a whole must hold: they can never draw more than it."""
    known = [part for part in parts_w if part is not None]
    total_w = sum(known)
    if whole_w is None or not known:
        missing = "the parts are unknown" if not known else f"{whole} gives no power"
        value = total_w if known else whole_w
        return Belief(
            value=value, unit="W", believed=None if value is None else ("parts" if known else whole),
            quality="estimated", disagreement_ratio=None, reason=f"Nothing to compare: {missing}.",
        )  # fmt: skip
    ratio = total_w / whole_w if whole_w > 0 else float("inf")
    if ratio <= WHOLE_SLACK:
        rest = f"{max(0.0, whole_w - total_w):.0f} W are its fans, memory, losses and what has no sensor"
        return Belief(
            value=whole_w, unit="W", believed=whole, quality="measured", disagreement_ratio=max(0.0, ratio - 1.0),
            reason=f"{len(known)} parts draw {total_w:.0f} W of the {whole_w:.0f} W of {whole}; {rest}.",
        )  # fmt: skip
    return Belief(
        value=total_w, unit="W", believed="parts", quality="estimated", disagreement_ratio=ratio - 1.0,
        reason=f"{len(known)} parts draw {total_w:.0f} W and {whole} says {whole_w:.0f} W: a whole cannot draw less "
        "than its parts, so its sensor is stale, misses a supply or is in another unit.",
    )  # fmt: skip


def _rank(witness: Witness) -> tuple[int, int]:
    doubt = {"measured": 0, "estimated": 1, "simulated": 2}[witness.quality]
    return doubt, TRUST.index(witness.source) if witness.source in TRUST else len(TRUST)


def _sentence(first: str, notes: list[str]) -> str:
    return " ".join([first, *notes])


def _belief(witness: Witness | None, apart: float | None, reason: str, *, sure: bool = True) -> Belief:
    return Belief(
        value=None if witness is None else witness.power_w,
        unit="W",
        believed=None if witness is None else witness.source,
        quality="estimated" if witness is None or not sure else witness.quality,
        disagreement_ratio=apart,
        reason=reason,
    )
