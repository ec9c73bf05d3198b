"""Names of the jobs and where they live. A job's module is imported only by the process that runs it."""

from __future__ import annotations

import difflib
import importlib
from typing import Final, cast

from streams.errors import StreamsError
from streams.jobs.base import Job

JOBS: Final[dict[str, str]] = {
    "features": "streams.jobs.features:FeaturesJob",
    "anomaly": "streams.jobs.anomaly:AnomalyJob",
    "actuation": "streams.jobs.actuation:ActuationJob",
    "archive": "streams.jobs.archive:ArchiveJob",
    "ledger": "streams.jobs.ledger:LedgerJob",
    "alerts": "streams.jobs.alerts:AlertsJob",
    "deliver": "streams.jobs.deliver:DeliverJob",
}


def resolve(name: str) -> str:
    """Where a job lives; raises StreamsError with the nearest name for an unknown one."""
    if name not in JOBS:
        near = difflib.get_close_matches(name, JOBS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the jobs are {', '.join(JOBS)}."
        raise StreamsError(f"{name!r} is not a job; {hint}")
    return JOBS[name]


def create(name: str) -> Job:
    """A new instance of a job."""
    return load(resolve(name))


def load(target: str) -> Job:
    """A new instance of "module:Class"."""
    module, _, attribute = target.partition(":")
    return cast(Job, getattr(importlib.import_module(module), attribute)())
