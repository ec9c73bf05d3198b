"""How densely a pool is packed, as a share of its strategy's packing: learned from what came late, by counting.

Clocks answer first. Where these have no room left, the packing loosens, and at its loosest the whole fleet serves. It
knows nothing of loads or models: it is what brings capacity back where they are wrong.
"""

from __future__ import annotations

from math import ceil, exp, inf, isfinite, log
from typing import Final

TIGHT: Final = 0.3  # slack from which what came late is answered by more replicas too: higher clocks come first
LOOSEST: Final = 0.4  # there the whole fleet serves
ALL_FROM: Final = 0.5  # below it the fleet comes back whatever the load
UNCOUNTED: Final = 0.75  # where nobody counts late first tokens: nothing would make it yield
UNCOUNTED_S: Final = 900.0  # a count that was there is missed for so long first: restarts, pauses and scrapes break it
PACK_S: Final = 7200.0  # in which it moves by a factor e while the slack is a factor e off
HALF: Final = 0.7  # how far the slack is off, as a logarithm, where about half of TIGHT is gone
HURRY: Final = 4.0  # times as fast from there on, where it has been so for a while: a slack that dips is met by clocks
LASTING_S: Final = 1800.0  # that a while is: the mean is over so long
WARY_S: Final = 86_400.0  # after a rollback it comes back slowly for so long, and how many times as slowly
WARY: Final = 8.0


class Density:
    """One pool's. `first`: the share to begin with."""

    def __init__(self, first: float) -> None:
        self._share = first
        self._off = 0.0  # how far the slack is off, of late
        self._wary_s = -inf  # until when it comes back slowly
        self._uncounted_s = inf  # since late first tokens were last counted

    def of(self, slack: float) -> float:
        """The share for the present slack; NaN = nobody counts."""
        counted = isfinite(slack) or self._uncounted_s < UNCOUNTED_S
        return self._share if counted else min(self._share, UNCOUNTED)

    def learn(self, now_s: float, span_s: float, slack: float) -> None:
        """Takes in the slack of the last span; up where there is room, down where there is none."""
        self._uncounted_s = 0.0 if isfinite(slack) else self._uncounted_s + span_s
        if not (isfinite(slack) and slack > 0.0):
            return
        off = min(1.0, max(-1.0, log(slack / TIGHT)))
        self._off += (1.0 - exp(-span_s / LASTING_S)) * (off - self._off)
        if off < 0.0 and self._off < -HALF:
            off *= HURRY
        elif off > 0.0 and now_s < self._wary_s:
            off /= WARY
        self._share = min(1.0, max(LOOSEST, self._share * exp(off * span_s / PACK_S)))

    def rolled_back(self, now_s: float) -> None:
        """Too many missed the SLO: the whole fleet, and then slowly."""
        self._share, self._wary_s = LOOSEST, now_s + WARY_S


def whole(share: float, total: int) -> int:
    """The more of the fleet the nearer a packing is to its loosest, whatever a model says of the load: what keeps
    coming late there comes late for a reason that the model does not know.
    """
    return ceil(total * min(1.0, max(0.0, (ALL_FROM - share) / (ALL_FROM - LOOSEST))) - 1e-9)
