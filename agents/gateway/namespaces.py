"""Which GPUs a namespace means: the cluster's name means all; Kubernetes' names come with the nodes' telemetry.

What is live wins; a namespace whose pods have ended is still known from the archive, for forecasts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from agents.gateway.context import Context
from agents.gateway.problems import Problem, nearest, shown

SQL: Final = "SELECT DISTINCT namespace, uuid FROM telemetry_node WHERE namespace IS NOT NULL AND ts >= since(0.25)"
MOST: Final = 200_000


async def gpus_of(context: Context, namespace: str | None) -> tuple[str, frozenset[str] | None]:
    """The namespace's name and its GPUs, None = all of the cluster; raises Problem 404 with the known names."""
    cluster = context.settings.cluster
    if namespace is None or namespace == cluster:
        return cluster, None
    live = context.placements.namespaces()
    if namespace in live:
        return namespace, live[namespace]
    found = await context.archive.ask(SQL, {}, limit_rows=MOST)
    archived: dict[str, set[str]] = defaultdict(set)
    for name, uuid in found.rows:
        archived[str(name)].add(str(uuid))
    if namespace not in archived:
        raise Problem(
            404, f"there is no namespace {shown(namespace)}.", fix=known_names(namespace, [cluster, *live, *archived])
        )
    return namespace, frozenset(archived[namespace])


def known_names(name: str, known: Iterable[str]) -> str:
    """The nearest name, and all that there are."""
    every = sorted(set(known))
    near = nearest(name, every)
    return near if near.startswith("there") else f"{near} {nearest('', every)}"
