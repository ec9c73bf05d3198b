"""Who stays at default for ever (the hold-out, the meter of savings) and who goes first (the canary).

Groups are chosen by a hash of their name, so that every worker, at any time, chooses the same ones without asking. A
group is a serving engine with all its GPUs, or a single GPU that serves none: half an engine cannot be a hold-out,
because its GPUs run in step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

MINIMUM_HOLDOUT_RATIO: Final = 0.10
DEFAULT_CANARY_RATIO: Final = 0.05
_SPAN: Final = float(1 << 64)


@lru_cache(maxsize=1 << 16)
def share_of(salt: str, group: str, purpose: str = "holdout") -> float:
    """A number in [0, 1) that depends on nothing but the names; `purpose` keeps two draws independent."""
    digest = blake2b(f"{purpose}\0{salt}\0{group}".encode(), digest_size=8).digest()
    return min(int.from_bytes(digest, "big") / _SPAN, 1.0 - 2**-53)


def in_holdout(salt: str, group: str, ratio: float) -> bool:
    """Whether the hash alone puts a group into the hold-out; a ratio below the minimum counts as the minimum."""
    return share_of(salt, group) < max(ratio, MINIMUM_HOLDOUT_RATIO)


def in_canary(salt: str, group: str, ratio: float = DEFAULT_CANARY_RATIO) -> bool:
    """Whether a group belongs to the share that mode canary grants to."""
    return share_of(salt, group, "canary") < ratio


class Group(NamedTuple):
    """A group as it is now: GPUs that are there, and how many of them are held out. Where these are neither all nor
    none, engines were placed anew."""

    size: int
    held: int = 0


def choose(
    groups: Mapping[str, Group], salt: str, *, ratio: float, minimum: float = MINIMUM_HOLDOUT_RATIO
) -> frozenset[str]:
    """The groups that are held out from now on: each as a whole.

    A group that is held out as a whole stays so, whatever its name. Others join while less than `ratio` of the GPUs are
    held out: first those that are held out in part, most of them first, then those that the hash names, lowest first.
    Then the lowest hashes fill up to `minimum`. So placing the same engines anew over the same GPUs never makes the
    hold-out larger than `ratio` and one group, or than it was.
    """
    there = {name: group for name, group in groups.items() if group.size > 0}  # of an absent one nothing is measured
    total = sum(group.size for group in there.values())
    chosen = {name for name, group in there.items() if group.held == group.size}
    left = sorted(there.keys() - chosen, key=lambda name: (share_of(salt, name), name))
    parted = sorted((name for name in left if there[name].held), key=lambda name: -there[name].held / there[name].size)
    named = [name for name in left if not there[name].held and in_holdout(salt, name, ratio)]
    have = sum(there[name].size for name in chosen)
    for names, most in (([*parted, *named], max(ratio, minimum)), (left, minimum)):
        for name in names:
            if have >= most * total:
                break
            if name not in chosen:
                chosen.add(name)
                have += there[name].size
    return frozenset(chosen)
