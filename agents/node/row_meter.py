"""What the meter of this node's row says: named power domains of the node's record, judged before they are believed.

It tells the capper watts and their age, or that nothing sound is known; what that means is the capper's matter. A meter
that lies low would let a breaker trip, so whatever looks wrong counts as no reading, never as a small one.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Final

from agents.node.capper_client import CapperPort
from agents.node.errors import CapperUnavailable
from streams.contract.records import NodeTelemetry

log = logging.getLogger(__name__)
STUCK_S: Final = 60.0
OWN_SHARE: Final = 0.8  # of this node's GPUs: a row that draws less than them is misread; a meter may lag a little


class RowMeter:
    """One row's meter.

    Args:
        names: domains whose power is added, e.g. the two feeds of a rack; all must be known.
        stuck_s: a feed that draws and has not moved by a hair for so long gives no reading any more; 0 = never.
        monotonic: seconds; the clock of ages.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        stuck_s: float = STUCK_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.names, self._stuck_s, self._monotonic = tuple(names), stuck_s, monotonic
        self._feeds: tuple[float, ...] = ()
        self._moved_s: list[float] = []  # per feed
        self._at_s = 0.0
        self._read_ns: int | None = None
        self._problem: str | None = None
        self.faults: Counter[str] = Counter()  # kind -> how often it began

    def take(self, record: NodeTelemetry, read_ns: Mapping[str, int]) -> None:
        """The newest record; `read_ns` says per source when it was really read (a slow one repeats itself)."""
        now_s = self._monotonic()
        feeds, when_ns, fault, text = self._read(record, read_ns)
        if fault:
            self._tell(fault, text)
            return
        if when_ns == self._read_ns:
            return  # the same reading once more: it only grows older
        before = zip(self._feeds, self._moved_s, strict=True) if self._feeds else [(None, now_s)] * len(feeds)
        self._moved_s = [at if watts == old else now_s for watts, (old, at) in zip(feeds, before, strict=True)]
        self._feeds, self._read_ns = feeds, when_ns
        self._at_s = now_s - max(0.0, (record.ts_ns - when_ns) / 1e9)
        if (stuck := self._stuck(now_s)) is not None:
            self._tell("stuck", f"{stuck} has not moved by a hair for {self._stuck_s:g} s")
        else:
            self._tell("", "")

    def load(self) -> tuple[float | None, float]:
        """Watts of the row and their age in seconds; None = nothing sound."""
        now_s = self._monotonic()
        if not self._feeds or self._stuck(now_s) is not None:
            return None, 0.0
        return sum(self._feeds), max(0.0, now_s - self._at_s)

    def _stuck(self, now_s: float) -> str | None:
        """The first feed that stands still; one that gives nothing may: the other carries all."""
        feeds = zip(self.names, self._feeds, self._moved_s, strict=False)
        return next((n for n, watts, at in feeds if watts > 0.0 and 0.0 < self._stuck_s <= now_s - at), None)

    def _read(self, record: NodeTelemetry, read_ns: Mapping[str, int]) -> tuple[tuple[float, ...], int, str, str]:
        """Watts of each feed, the oldest reading's time, and what is wrong with it: (kind, sentence)."""
        domains = record.domains
        names = () if domains is None else domains.name
        feeds, oldest_ns = list[float](), record.ts_ns
        for name in self.names:
            if domains is None or name not in names:
                near = ", ".join(names[:6]) or "none"
                return (), 0, "missing", f"domain {name!r} is not in the node's record; it has {near}"
            index = names.index(name)
            watts = None if domains.power_w is None else domains.power_w[index]
            if watts is None or not isfinite(watts):
                return (), 0, "unknown", f"domain {name!r} gives no power now"
            if watts < 0.0:
                return (), 0, "implausible", f"domain {name!r} says {watts:g} W, less than nothing"
            feeds.append(watts)
            oldest_ns = min(oldest_ns, read_ns.get(domains.source[index], record.ts_ns))
        total, least_w = sum(feeds), OWN_SHARE * _own_w(record)
        if total <= 0.0 or total < least_w:
            text = f"it says {total:g} W, and this node's GPUs alone draw {least_w / OWN_SHARE:.0f} W"
            return (), 0, "implausible", text
        return tuple(feeds), oldest_ns, "", ""

    def _tell(self, fault: str, text: str) -> None:
        """Each change once."""
        if fault == (self._problem or ""):
            return
        self._problem = fault or None
        if fault:
            self.faults[fault] += 1
            log.warning("row meter %s: %s; the node brakes when nothing newer comes", "+".join(self.names), text)
        else:
            log.info("row meter %s reads again", "+".join(self.names))


class RowLine:
    """Hands a row's load on to the capper. One that cannot take it brakes by itself or not at all: said once."""

    def __init__(self, capper: CapperPort, meter: RowMeter) -> None:
        self._capper, self._meter, self._problem = capper, meter, ""

    def tell(self) -> None:
        """The newest load, before each round of the loop."""
        try:
            used = self._capper.row_load(*self._meter.load())
            problem = "" if used else "the capper has row_meter = false, so the brake table is not obeyed here"
        except CapperUnavailable as error:
            problem = str(error)
        if problem and problem != self._problem:
            log.warning("row meter: %s", problem)
        self._problem = problem


def _own_w(record: NodeTelemetry) -> float:
    powers = () if record.gpu is None or record.gpu.power_w is None else record.gpu.power_w
    return sum(w for w in powers if w is not None and isfinite(w) and w > 0.0)
