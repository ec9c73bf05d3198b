"""Everything that routes draw on, made once per process and handed to them as annotated dependencies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from agents.gateway.archive import ArchiveDoor
from agents.gateway.cluster import ClusterState
from agents.gateway.feed import Feed
from agents.gateway.idempotency import Idempotency
from agents.gateway.job_look import JobLooks
from agents.gateway.keys import KeyStore
from agents.gateway.metrics import GatewayMetrics
from agents.gateway.placements import Placements
from agents.gateway.plans import PlanDoor
from agents.gateway.push import Hub
from agents.gateway.sample import SampleDoor
from agents.gateway.settings import GatewaySettings
from agents.gateway.views import Views
from streams.contract.records import OperatorIntent

Publish = Callable[[list[OperatorIntent]], None]
KnownCaps = Callable[[], Mapping[str, int]]  # scope -> time of the newest word on capping it


@dataclass(slots=True)
class Context:
    """The parts of one gateway."""

    settings: GatewaySettings
    state: ClusterState
    views: Views
    hub: Hub
    feed: Feed
    job_looks: JobLooks
    placements: Placements
    archive: ArchiveDoor
    sample: SampleDoor | None  # a demo's made-up past
    keys: KeyStore
    metrics: GatewayMetrics
    idempotency: Idempotency
    publish: Publish
    known_caps: KnownCaps
    plans: PlanDoor
    wall_ns: Callable[[], int]
    started_ns: int
    notes: list[str] = field(default_factory=list)


async def _context(request: Request) -> Context:
    # async, though it awaits nothing: a plain function would be sent to a thread for each request
    return cast(Context, request.app.state.context)


ContextDep = Annotated[Context, Depends(_context)]
