"""Which GPUs a namespace means: the cluster's name means all; Kubernetes' names come with the archived telemetry."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from agents.gateway.context import Context
from agents.gateway.problems import Problem, nearest, shown

SQL: Final = "SELECT DISTINCT namespace, uuid FROM telemetry_node WHERE namespace IS NOT NULL AND ts >= since(0.25)"
MOST: Final = 200_000


async def gpus_of(context: Context, namespace: str | None) -> tuple[str, frozenset[str] | None]:
    """The namespace's name and its GPUs, None = all of the cluster; raises Problem 404 with the nearest name."""
    cluster = context.settings.cluster
    if namespace is None or namespace == cluster:
        return cluster, None
    found = await context.archive.ask(SQL, {}, limit_rows=MOST)
    known: dict[str, set[str]] = defaultdict(set)
    for name, uuid in found.rows:
        known[str(name)].add(str(uuid))
    if namespace not in known:
        raise Problem(404, f"there is no namespace {shown(namespace)}.", fix=nearest(namespace, [cluster, *known]))
    return namespace, frozenset(known[namespace])
