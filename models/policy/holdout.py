"""Who stays at default for ever (the hold-out, the meter of savings) and who goes first (the canary).

Groups are chosen by a hash of their name, so that every worker, at any time, chooses the same ones without asking. A
group is a serving engine with all its GPUs, or a single GPU that serves none: half an engine cannot be a hold-out,
because its GPUs run in step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

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


def promote(
    sizes: Mapping[str, int],
    salt: str,
    *,
    ratio: float,
    promoted: frozenset[str],
    minimum: float = MINIMUM_HOLDOUT_RATIO,
) -> frozenset[str]:
    """The promoted groups, enlarged until at least `minimum` of the GPUs of `sizes` (group -> GPUs) are held out.

    The groups of lowest hash are added, so the result does not depend on the order of arrival of the same groups.
    A group once promoted stays so: the caller keeps the result for ever.
    """
    held = {g for g in sizes if g in promoted or in_holdout(salt, g, ratio)}
    missing = minimum * sum(sizes.values()) - sum(sizes[g] for g in held)
    added: set[str] = set()
    for group in sorted(sizes.keys() - held, key=lambda g: (share_of(salt, g), g)):
        if missing <= 0:
            break
        if sizes[group] > 0:  # of an absent group nothing can be measured
            added.add(group)
            missing -= sizes[group]
    return promoted | added
