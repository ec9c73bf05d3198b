"""The actuation job's newest plan as others read it: replicas, rows, set points, PID, tariff. It reads, never decides.

Plans lie on the state topic under `<cluster>/actuation-plan/<lowest partition of the worker>`: each worker plans for
the nodes of its own partitions. Only the last minutes of the topic are read: an older plan says nothing about now.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streams.contract import codec
from streams.contract.errors import ContractError
from streams.contract.records import JobState
from streams.contract.topics import STATE
from streams.replay import Replay, ReplayRecord

PLAN: Final = "actuation-plan"
PLAN_VERSION: Final = 1
MEMORY: Final = "actuation-memory"
MEMORY_VERSION: Final = 1
STALE_S: Final = 150.0  # two of the longest intervals, and some time to be late


def read_plans(replay: Replay, cluster: str, *, now_ns: int, stale_s: float = STALE_S) -> list[dict[str, Any]]:
    """The newest plan of each worker of a cluster, by partition; empty when none was written lately.

    Raises:
        StreamsError: the topic cannot be read.
    """
    found: list[dict[str, Any]] = []
    for home in range(replay.partitions(STATE.name)):
        start = replay.offset_at(STATE.name, home, int(now_ns / 1e6 - stale_s * 1e3))
        for chunk in replay.read(STATE.name, home, start=start, end=replay.bounds(STATE.name, home)[1]):
            found += [plan for record in chunk if (plan := _plan(record, cluster)) is not None]
    return of_workers([plan for plan in found if now_ns - plan["ts_ns"] <= stale_s * 1e9])


def _plan(record: ReplayRecord, cluster: str) -> dict[str, Any] | None:
    if record.key is None or record.value is None or not record.key.startswith(f"{cluster}/{PLAN}/".encode()):
        return None
    try:
        state = codec.decode(JobState, record.value)
        plan = msgspec.json.decode(state.data)
    except (ContractError, msgspec.MsgspecError):
        return None
    fits = state.data_version == PLAN_VERSION and isinstance(plan, dict) and isinstance(plan.get("ts_ns"), int)
    return plan if fits and plan.get("cluster") == cluster else None


def of_workers(plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest plan of each set of partitions; one whose partitions a later plan took over is left out."""
    kept: list[dict[str, Any]] = []
    taken: set[int] = set()
    for plan in sorted(plans, key=lambda one: -int(one["ts_ns"])):
        own = set(plan.get("partitions") or ())
        if not own & taken:
            taken |= own
            kept.append(plan)
    return sorted(kept, key=lambda one: min(one.get("partitions") or (0,)))
