"""Share of a host's CPU time that was spent working, from /proc/stat, between two readings. Keeps two numbers."""

from __future__ import annotations

from collections.abc import Sequence


class CpuLoad:
    """Feed it the lines of /proc/stat; the first call, and a clock of ticks that went back, give None."""

    def __init__(self) -> None:
        self._ticks: tuple[int, int] | None = None  # busy and all, at the reading before

    def ratio(self, lines: Sequence[str]) -> float | None:
        """Share of all CPUs' time that was neither idle nor waiting for a disk, since the call before."""
        try:
            ticks = [int(word) for word in lines[0].split()[1:9]]
            # user nice system idle iowait irq softirq steal; guest time is inside user.
            total, idle = sum(ticks), ticks[3] + ticks[4]
        except (IndexError, ValueError):
            self._ticks = None
            return None
        before, self._ticks = self._ticks, (total - idle, total)
        if before is None or total <= before[1] or total - idle < before[0]:
            return None
        return min(1.0, (total - idle - before[0]) / (total - before[1]))


def threads(lines: Sequence[str]) -> int:
    """How many logical CPUs /proc/stat lists."""
    return sum(1 for line in lines if line[:3] == "cpu" and line[3:4].isdigit())
