"""The numbers that a spool does not hold: dropped, damaged. Arithmetic on ranges only."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


class Gaps:
    """Disjoint closed ranges of missing numbers in rising order."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = sorted(ranges)

    @property
    def ranges(self) -> list[Range]:
        return list(self._ranges)

    def within(self, first: int, last: int) -> int:
        """How many numbers of [first, last] are missing."""
        return sum(max(0, min(last, b) - max(first, a) + 1) for a, b in self._ranges)

    def add(self, first: int, last: int) -> int:
        """Marks [first, last] as missing and returns how many of them were not so before."""
        if last < first:
            return 0
        new = last - first + 1 - self.within(first, last)
        if new:
            keep = [(a, b) for a, b in self._ranges if b < first - 1 or a > last + 1]
            touching = [(a, b) for a, b in self._ranges if b >= first - 1 and a <= last + 1]
            low, high = min([first, *(a for a, _ in touching)]), max([last, *(b for _, b in touching)])
            self._ranges = sorted([*keep, (low, high)])
        return new

    def forget(self, upto: int) -> None:
        """Forgets everything up to and including `upto`: it lies behind the cursor."""
        if self._ranges and self._ranges[0][0] <= upto:
            self._ranges = [(max(a, upto + 1), b) for a, b in self._ranges if b > upto]
