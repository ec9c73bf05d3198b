"""Loads the recorded request trace that ships with the fleet and spreads it over the replicas."""

from __future__ import annotations

from importlib import resources
from typing import Final

from models.twin.workload import Workload, replay

TRACE: Final = "azure2023_conv_first.parquet"


def recorded_workload(*, replicas: int, seed: int, thin: float | None = None) -> Workload:
    """The Azure 2023 conversation trace, each replica at its own offset; `thin` is the share that one replica takes."""
    import numpy as np
    import pyarrow.parquet as pq

    with resources.as_file(resources.files("agents.fleet").joinpath("traces", TRACE)) as path:
        table = pq.read_table(path)
    arrival_s = table["timestamp"].to_numpy().astype("datetime64[ns]").astype(np.int64) / 1e9
    order = np.argsort(arrival_s, kind="stable")
    prompt, output = (table[name].to_numpy()[order] for name in ("context_tokens", "generated_tokens"))
    extra = {} if thin is None else {"thin": thin}
    return replay(arrival_s[order], prompt, output, replicas=replicas, seed=seed, **extra)
