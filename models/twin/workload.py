"""Request streams: which replica gets how many prompt and output tokens at which second. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Share of the Azure 2023 conversation trace (5.56 requests/s) that one replica of 4 H100 takes: 2.0 requests/s. A
# moderate load: at full clocks it is busy all the time with 10 sequences, prefills in a fifth of the time and fills 3 %
# of its KV cache.
DEFAULT_THIN: Final = 0.36


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of all replicas, sorted by (replica, arrival); the whole repeats every `period_s` (inf = never)."""

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    replica: NDArray[np.int64]
    period_s: float = float("inf")

    def __post_init__(self) -> None:
        columns = (self.arrival_s, self.prompt_tokens, self.output_tokens, self.replica)
        if len({len(column) for column in columns}) != 1:
            raise ValueError(f"workload columns have lengths {[len(column) for column in columns]}; give equal ones")
        if len(self.arrival_s) == 0:
            return
        if min(self.prompt_tokens.min(), self.output_tokens.min()) < 1:
            raise ValueError("a request needs at least 1 prompt and 1 output token; drop the others first")
        if self.arrival_s.min() < 0.0 or self.arrival_s.max() >= self.period_s:
            raise ValueError(f"arrivals must lie in [0, period_s = {self.period_s:g}); shift or loop them first")
        order = np.lexsort((self.arrival_s, self.replica))
        if not np.array_equal(self.replica[order], self.replica) or np.any(
            (np.diff(self.arrival_s) < 0) & (np.diff(self.replica) == 0)
        ):
            raise ValueError("requests must be sorted by replica, then arrival")


def replay(
    arrival_s: NDArray[np.float64],
    prompt_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    *,
    replicas: int,
    seed: int,
    thin: float = DEFAULT_THIN,
) -> Workload:
    """Each replica's stream: the recorded trace shifted by a random offset, thinned to a share, looping at the end.

    Arrivals in seconds, any origin, sorted. Same seed, same streams.
    """
    if len(arrival_s) < 2:
        raise ValueError(f"a trace of {len(arrival_s)} requests cannot be replayed; give at least 2")
    if not 0.0 < thin <= 1.0:
        raise ValueError(f"thin is {thin:g}; give a share in (0, 1]")
    rng = np.random.default_rng(seed)
    times = np.asarray(arrival_s, dtype=np.float64) - arrival_s[0]
    period = float(times[-1]) * len(times) / (len(times) - 1)  # the gap after the last request is a mean gap
    parts = [_stream(times, period, rng, thin) for _ in range(replicas)]
    chosen = np.concatenate([rows for rows, _ in parts])
    return Workload(
        arrival_s=np.concatenate([shifted for _, shifted in parts]),
        prompt_tokens=np.maximum(np.asarray(prompt_tokens, dtype=np.int64)[chosen], 1),
        output_tokens=np.maximum(np.asarray(output_tokens, dtype=np.int64)[chosen], 1),
        replica=np.repeat(np.arange(replicas), [len(rows) for rows, _ in parts]),
        period_s=period,
    )


def _stream(
    times: NDArray[np.float64], period: float, rng: np.random.Generator, thin: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows = np.flatnonzero(rng.random(len(times)) < thin)
    shifted = (times[rows] + rng.random() * period) % period
    order = np.argsort(shifted, kind="stable")
    return rows[order].astype(np.int64), shifted[order]
