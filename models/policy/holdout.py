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
    """A group as it is now: GPUs that are there, and how many of its GPUs, there or not, are held out for ever.

    `place`: whose hash decides, where it is not the group's own. The GPUs of a node that serve nothing yet have the
    node's, so that those chosen lie together: an engine that starts over one of them is held out with all of its GPUs.
    """

    size: int
    held: int = 0
    place: str = ""


def choose(
    groups: Mapping[str, Group], salt: str, *, ratio: float, minimum: float = MINIMUM_HOLDOUT_RATIO
) -> frozenset[str]:
    """The groups that are held out from now on, each as a whole.

    A group with a GPU that is held out for ever is one of them as long as it has that GPU. While less than `ratio` of
    the GPUs are in such groups, those that the hash names join, lowest first; then the lowest hashes fill up to
    `minimum`. Only the GPUs of those that join are held out for ever by it: the others of a mixed group go free with
    their next placing. So placing the same engines anew over the same GPUs makes nobody join for good.
    """
    there = {name: group for name, group in groups.items() if group.size > 0}  # of an absent one nothing is measured
    total = sum(group.size for group in there.values())
    chosen = {name for name, group in there.items() if group.held}
    by_hash = {name: there[name].place or name for name in there.keys() - chosen}
    left = sorted(by_hash, key=lambda name: (share_of(salt, by_hash[name]), name))
    named = [name for name in left if in_holdout(salt, by_hash[name], ratio)]
    have = sum(there[name].size for name in chosen)
    for names, most in ((named, max(ratio, minimum)), (left, minimum)):
        for name in names:
            if have >= most * total:
                break
            if name not in chosen:
                chosen.add(name)
                have += there[name].size
    return frozenset(chosen)
