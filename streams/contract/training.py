"""How a rank of a data-parallel training job says which job it belongs to: in its reading's `workload`.

A workload class is free text, and a training job's latency belongs to no pool: one more word in it breaks no reader.
"""

from __future__ import annotations

from typing import Final

TRAINING: Final = "training"  # kind of a job among the engines, and its workload where nobody names another
RANK_OF: Final = "rank-of:"


def workload_of(group: str) -> str:
    """The workload of a rank."""
    return f"{RANK_OF}{group}"


def group_of(workload: str) -> str | None:
    """The job of a rank; None for whatever is none."""
    return workload.removeprefix(RANK_OF) or None if workload.startswith(RANK_OF) else None
