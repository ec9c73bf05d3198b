"""Assembles the Energy API: parts, layers, routes. Nothing is decided here."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from agents.cli.jobs import JobLook
from agents.cli.placement import Placement
from agents.gateway import problems
from agents.gateway.access import Gate
from agents.gateway.archive import ArchiveDoor
from agents.gateway.cluster import ClusterState
from agents.gateway.context import Context, KnownCaps, Publish
from agents.gateway.feed import Feed, Reader
from agents.gateway.idempotency import Idempotency
from agents.gateway.job_look import JobLooks
from agents.gateway.keys import KeyStore
from agents.gateway.limits import BodyLimit, Measured
from agents.gateway.metrics import GatewayMetrics, Look
from agents.gateway.openapi import guarded_routes
from agents.gateway.placements import Placements
from agents.gateway.plans import PlanDoor, kafka_plans
from agents.gateway.push import Hub
from agents.gateway.routes import cluster, forecast, health, history, keys, optimize, pages, plan, stream
from agents.gateway.sample import SampleDoor
from agents.gateway.settings import GatewaySettings
from agents.gateway.ticks import Ticks
from agents.gateway.views import Views

ROUTERS = (
    health.public,
    health.read,
    cluster.router,
    history.router,
    stream.router,
    optimize.router,
    forecast.router,
    plan.router,
    keys.router,
    pages.router,
)
DESCRIPTION = (
    "Energy Orchestrator's API. Units stand in the names, null is unknown and never zero, and every number says "
    "whether it was measured, estimated or simulated. Errors are problem+json with the next step in `fix`."
)


def make_context(
    settings: GatewaySettings,
    *,
    open_reader: Callable[[float, float], Reader],
    publish: Publish,
    known_caps: KnownCaps,
    look_at_jobs: Callable[[], list[JobLook]],
    look_at_places: Callable[[], Mapping[str, Placement]],
    wall_ns: Callable[[], int] = time.time_ns,
    monotonic: Callable[[], float] = time.monotonic,
) -> Context:
    """The parts of one gateway; nothing is started."""
    layout, started_ns = settings.layout, wall_ns()
    state = ClusterState(settings.cluster, wall_ns=wall_ns)
    placements = Placements(look_at_places, wall_ns=wall_ns, stale_s=settings.stale_s)
    views = Views(state, placements.places, stale_s=settings.stale_s, monotonic=monotonic)
    hub = Hub(f"{started_ns:x}{os.getpid():x}", most_clients=settings.stream_clients)
    after = Ticks(state, views, hub, monotonic=monotonic)

    def look() -> Look:
        undecodable = state.counts["undecodable"]
        return Look(views.picture().totals, hub.clients, state.sample_age_s(wall_ns()), undecodable)

    return Context(
        settings=settings,
        state=state,
        views=views,
        hub=hub,
        feed=Feed(state, open_reader, history_s=settings.history_s, after=after),
        job_looks=JobLooks(settings.job_names, look_at_jobs, wall_ns=wall_ns, monotonic=monotonic),
        placements=placements,
        sample=SampleDoor(layout.root / "sample-archive", settings.archive_timeout_s)
        if settings.sample_history
        else None,
        archive=ArchiveDoor(
            settings.archive_dir or layout.archive, timeout_s=settings.archive_timeout_s, monotonic=monotonic
        ),
        keys=KeyStore(layout.keys / "api_keys.json"),
        metrics=GatewayMetrics(look),
        idempotency=Idempotency(layout.root / "gateway" / "idempotency.json", wall_ns=wall_ns),
        publish=publish,
        known_caps=known_caps,
        plans=PlanDoor(kafka_plans(settings.bootstrap, settings.cluster), monotonic=monotonic),
        wall_ns=wall_ns,
        started_ns=started_ns,
    )


def build_app(context: Context, *, monotonic: Callable[[], float] = time.monotonic) -> FastAPI:
    """The application on these parts; its lifespan starts and ends the feed."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        context.feed.start()
        threads = [context.placements.thread, *([context.job_looks.thread] if context.job_looks.jobs else [])]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            context.feed.stop()
            for thread in threads:
                thread.stop()
            context.archive.close()
            if context.sample is not None:
                context.sample.door.close()

    app = FastAPI(
        title="Energy Orchestrator",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the caller's Host header
    )
    app.state.context = context
    app.state.gate = Gate(context.settings, context.keys, wall_ns=context.wall_ns, monotonic=monotonic)
    problems.install(app)
    # The routes themselves, not include_router's wrappers: each keeps its class, and with it its role.
    app.router.routes.extend(route for router in ROUTERS for route in router.routes)
    app.state.paths = sorted({route.path for route in guarded_routes(app)})
    app.add_middleware(BodyLimit, most_bytes=context.settings.body_max_bytes)
    app.add_middleware(Measured, metrics=context.metrics)
    return app
