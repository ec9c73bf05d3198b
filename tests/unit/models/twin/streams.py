"""Small request streams for the twin's tests: known by construction, no recorded file needed."""

from __future__ import annotations

import numpy as np

from models.twin.workload import Workload


def stream(requests: list[tuple[float, int, int]], *, replica: int = 0, period_s: float = float("inf")) -> Workload:
    """One replica's requests as (arrival seconds, prompt tokens, output tokens)."""
    columns = list(zip(*requests, strict=True)) if requests else [(), (), ()]
    return Workload(
        arrival_s=np.array(columns[0], dtype=np.float64),
        prompt_tokens=np.array(columns[1], dtype=np.int64),
        output_tokens=np.array(columns[2], dtype=np.int64),
        replica=np.full(len(requests), replica, dtype=np.int64),
        period_s=period_s,
    )


def poisson(replicas: int, *, rate: float, seconds: float, seed: int, period_s: float = float("inf")) -> Workload:
    """Random streams with lengths like a conversation's: about 1,000 prompt and 200 output tokens."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rate * seconds, replicas)
    total = int(counts.sum())
    replica = np.repeat(np.arange(replicas), counts)
    arrival = rng.uniform(0.0, seconds, total)
    order = np.lexsort((arrival, replica))
    return Workload(
        arrival_s=arrival[order],
        prompt_tokens=rng.integers(1, 2000, total),
        output_tokens=rng.integers(1, 400, total),
        replica=replica.astype(np.int64),
        period_s=period_s,
    )
