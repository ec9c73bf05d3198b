"""`GET /health` and `GET /metrics`: whether this process lives, what it leans on, how each job does."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from agents.cli.jobs import JobHealth
from agents.gateway.access import guarded
from agents.gateway.answers import answer
from agents.gateway.archive import newest_age_s
from agents.gateway.context import Context, ContextDep
from agents.gateway.problems import declared
from agents.gateway.shapes import Health, Live
from streams.contract.topics import APPLIED, DESIRED, FEATURES, Topic

public = APIRouter(route_class=guarded("public"), tags=["health"])
NEEDED: Final = ("kafka", "nodes")
read = APIRouter(route_class=guarded("read"), tags=["health"])


@public.get("/health", response_model=Health, responses={503: {"model": Health}, **declared(429)})
async def health(context: ContextDep) -> Response:
    """Live, ready, and each dependency with the age of its last sample. 503 = live, but not ready."""
    facts = gather(context)
    return answer(facts, status=200 if facts["ready"] else 503)


@public.get("/health/live", response_model=Live, responses=declared(429))
async def live() -> Response:
    """That this process answers, and nothing else: for what restarts it."""
    return answer({"live": True})


def gather(context: Context) -> dict[str, Any]:
    """What `/health` says."""
    now = context.wall_ns()
    with context.state.lock:
        sample = context.state.sample_age_s(now)
        ages = {topic: context.state.age_s(topic.name, now) for topic in (FEATURES, DESIRED, APPLIED)}
    problem = context.feed.problem
    kafka = {
        "ok": problem is None and context.feed.alive,
        "age_s": min((age for age in ages.values() if age is not None), default=None),
        "problem": problem if problem is not None or context.feed.alive else "the feed has ended",
    }
    limit = context.settings.stale_s
    dependencies = {
        "kafka": kafka,
        "nodes": _dependency(sample, limit, "no node has reported yet", "no node has reported for {:.0f} s"),
        "actuation": _topic(ages, DESIRED, limit, "no envelope has been seen yet; is `eo worker actuation` running?"),
        "acknowledgements": _topic(ages, APPLIED, 10 * limit, "no node has acknowledged anything yet"),
        "archive": _archive(context.settings.layout.archive, now),
    }
    jobs = context.job_looks.newest()
    against = [f"{name}: {dependencies[name]['problem']}" for name in NEEDED if not dependencies[name]["ok"]]
    against += [f"job {name}: {job.problem}" for name, job in jobs.items() if job.ready is False]
    return {
        "live": True,
        "ready": not against,
        "not_ready": against,
        "cluster": context.settings.cluster,
        "uptime_s": round((now - context.started_ns) / 1e9, 1),
        "dependencies": dependencies,
        "jobs": {name: _job(job) for name, job in jobs.items()},
    }


def _job(job: JobHealth) -> dict[str, Any]:
    row = asdict(job)
    del row["job"]
    return row


def _topic(ages: dict[Topic, float | None], topic: Topic, limit_s: float, never: str) -> dict[str, Any]:
    return _dependency(ages[topic], limit_s, never, "nothing new for {:.0f} s")


def _dependency(age_s: float | None, limit_s: float, never: str, late: str) -> dict[str, Any]:
    ok = age_s is not None and age_s <= limit_s
    problem = None if ok else never if age_s is None else late.format(age_s)
    return {"ok": ok, "age_s": None if age_s is None else round(age_s, 1), "problem": problem}


def _archive(folder: Path, now_ns: int) -> dict[str, Any]:
    never = f"the archive {folder} holds nothing yet; `eo worker archive` fills it"
    return _dependency(newest_age_s(folder, now_ns), 7200.0, never, "nothing was written for {:.0f} s")


@read.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **declared(401, 403, 429)},
)
async def metrics(context: ContextDep) -> Response:
    """Prometheus text: this process and the cluster's totals by group."""
    return Response(context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
