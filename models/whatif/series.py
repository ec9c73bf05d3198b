"""What an archive says of the engines of one serving stack, as arrays over engines and time slots. Values only.

Time is compressed: gaps are cut out, and `seam` marks the first slot after each cut. Unknown is NaN, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Kind = Literal["ttft", "tbt", "e2e"]
KINDS: Final[tuple[Kind, ...]] = ("ttft", "tbt", "e2e")
PER_OCTAVE: Final = 32  # scale 5: bucket i holds 2**(i/32) < ms <= 2**((i+1)/32)
BUCKETS: Final = 24 * PER_OCTAVE
MIN_SAMPLES: Final[dict[Kind, int]] = {"ttft": 200, "tbt": 1000, "e2e": 200}  # a p99 needs samples beyond it


@dataclass(frozen=True, slots=True)
class Hits:
    """Entries of a sparse histogram by engine and slot; the four arrays are equally long."""

    engine: Ints
    slot: Ints
    bucket: Ints
    count: Ints

    def within(self, slots: Bools) -> Ints:
        """Counts by bucket over the slots that are set."""
        keep = slots[self.slot]
        counts = np.bincount(self.bucket[keep], weights=self.count[keep], minlength=BUCKETS)[:BUCKETS]
        return counts.astype(np.int64)

    def of(self, engine: int) -> tuple[Ints, Array]:
        """Every single event of an engine: its slot and its milliseconds (the middle of its bucket)."""
        rows = np.flatnonzero(self.engine == engine)
        times = self.count[rows]
        value = 2.0 ** ((self.bucket[rows] + 0.5) / PER_OCTAVE)
        return np.repeat(self.slot[rows], times), np.repeat(value, times)


@dataclass(frozen=True, slots=True)
class Machine:
    """The GPUs of one stack's engines: all engines of a series have the same."""

    name: str
    gpus: int  # of one engine
    sm_max_mhz: float
    limit_default_w: float
    limit_min_w: float
    limit_max_w: float


@dataclass(frozen=True, slots=True)
class Series:
    """E engines and T slots of step_s seconds. Rises and means are of the slot."""

    stack: str
    workload: str
    machine: Machine
    engines: tuple[str, ...]
    holdout: Bools  # [E]
    step_s: float
    start_ns: Ints  # [T] wall-clock time at which each slot began
    seam: Bools  # [T]
    prompt: Array  # [E, T] prompt tokens prefilled
    generated: Array  # [E, T]
    finished: Array  # [E, T] requests
    running: Array  # [E, T] at the end of the slot
    power_w: Array  # [E, T] mean watts of one GPU
    lock_mhz: Array  # [E, T] upper clock in force, 0 = none
    limit_w: Array  # [E, T]
    hits: dict[Kind, Hits]
    kv_limit_tokens: float = float("nan")

    @property
    def slots(self) -> int:
        return len(self.start_ns)

    @property
    def seconds(self) -> float:
        return self.slots * self.step_s

    def settled(self, warm_s: float) -> Bools:
        """Slots at least warm_s after the beginning and after every seam: what the twin is judged on."""
        since = np.zeros(self.slots)
        age = 0.0
        for slot in range(self.slots):
            age = 0.0 if self.seam[slot] else age
            since[slot] = age
            age += self.step_s
        ready: Bools = since >= warm_s
        return ready

    def mean_power_w(self, slots: Bools) -> float:
        """Mean watts of one GPU over slots and engines; NaN when no reading is known."""
        values = self.power_w[:, slots]
        known = np.isfinite(values)
        return float(values[known].mean()) if known.any() else float("nan")


def quantile_ms(counts: Ints, q: float) -> float:
    """As streams.contract.histogram.quantile over dense counts of scale 5; NaN for an empty histogram."""
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    seen = np.cumsum(counts)
    rank = q * total
    bucket = int(np.searchsorted(seen, rank))
    inside = (seen[bucket] - rank) / counts[bucket]
    return float(2.0 ** ((bucket + 1.0 - inside) / PER_OCTAVE))
