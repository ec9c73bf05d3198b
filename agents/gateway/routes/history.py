"""`GET /v1/energy`, `/v1/commands`, `/v1/anomalies`, `/v1/alerts`: recent events live, older ones from the archive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from agents.cli.sql_run import Answer
from agents.gateway.access import guarded
from agents.gateway.answers import answer
from agents.gateway.context import Context, ContextDep
from agents.gateway.problems import declared
from agents.gateway.shapes import HOURS_MAX, AlertRows, Energy, Name, Rows
from streams.contract.records import AnomalyVerdict, PowerApplied, Severity

router = APIRouter(route_class=guarded("read"), tags=["history"])
ERRORS = declared(401, 403, 422, 429, 503)
HoursQuery = Annotated[
    float | None, Query(gt=0, le=HOURS_MAX, allow_inf_nan=False, description="from the archive, so far back; else live")
]
LimitQuery = Annotated[int, Query(ge=1, le=10_000)]
NodeQuery = Annotated[Name | None, Query(description="of this node only")]
QUERIES: Final = {"engine": "energy_by_engine", "stack": "energy_by_stack", "node": "power_by_node_hour"}
ALERTS_SQL: Final = """
SELECT * EXCLUDE (partition, "offset", sent_ms) FROM alert
WHERE ts >= since($hours) AND ($severity = '' OR severity = $severity) AND ($node = '' OR node = $node)
ORDER BY ts_ns DESC
"""
COMMANDS_SQL: Final = """
SELECT * EXCLUDE (partition, "offset", sent_ms) FROM power_applied
WHERE ts >= since($hours) AND ($node = '' OR node = $node)
ORDER BY ts_ns DESC
"""
ANOMALIES_SQL: Final = COMMANDS_SQL.replace("power_applied", "anomaly_gpu")


@router.get("/v1/energy", response_model=Energy, responses=ERRORS)
async def energy(
    context: ContextDep,
    hours: Annotated[float, Query(gt=0, le=HOURS_MAX, allow_inf_nan=False)] = 1.0,
    by: Literal["engine", "stack", "node"] = "stack",
    limit: LimitQuery = 1000,
) -> Response:
    """Power now by group, and the archive's energy of the last hours by engine, stack or node."""
    found = await context.archive.named(QUERIES[by], {"hours": hours}, limit_rows=limit)
    picture = context.views.picture()
    return answer(
        {
            "cluster": context.settings.cluster,
            "ts_ns": picture.ts_ns,
            "now": picture.totals,
            "by": by,
            "hours": hours,
            "history": [_with_quality(row) for row in found.records()],
            "notes": _notes(found),
        }
    )


def _with_quality(row: dict[str, Any]) -> dict[str, Any]:
    """The archive's queries give the simulated share; the word for it stands beside."""
    simulated = row.get("simulated_ratio")
    word = None if simulated is None else "simulated" if simulated == 1 else "mixed" if simulated else "measured"
    return {**row, "quality": word}


def _notes(found: Answer) -> list[str]:
    return [*found.notes, *(["rows were left out by `limit`"] if found.more else [])]


@router.get("/v1/commands", response_model=Rows, responses=ERRORS)
async def commands(
    context: ContextDep, hours: HoursQuery = None, node: NodeQuery = None, limit: LimitQuery = 100
) -> Response:
    """What became of commands, newest first: per GPU asked, in force, previous value, status and reason."""
    if hours is not None:
        return await _archived(context, COMMANDS_SQL, {"hours": hours, "node": node or ""}, limit)
    with context.state.lock:
        recent = [one for one in reversed(context.state.commands) if node in (None, one.node)][: limit + 1]
    return answer(_live(context, (row for one in recent for row in _ack_rows(one)), limit))


def _ack_rows(ack: PowerApplied) -> Iterable[dict[str, Any]]:
    """One row per GPU of an acknowledgement."""
    shared = msgspec.structs.asdict(ack)
    columns = msgspec.structs.asdict(shared.pop("gpu"))
    for index in range(len(ack.gpu.uuid)):
        yield {**shared, **{name: column[index] for name, column in columns.items()}}


@router.get("/v1/anomalies", response_model=Rows, responses=ERRORS)
async def anomalies(
    context: ContextDep, hours: HoursQuery = None, node: NodeQuery = None, limit: LimitQuery = 100
) -> Response:
    """Verdicts with their evidence, newest first. A verdict may freeze or alert; it never lowers anything."""
    if hours is not None:
        return await _archived(context, ANOMALIES_SQL, {"hours": hours, "node": node or ""}, limit)
    with context.state.lock:
        recent: list[AnomalyVerdict] = [v for v in reversed(context.state.anomalies) if node in (None, v.node)]
    return answer(_live(context, map(msgspec.structs.asdict, recent), limit))


@router.get("/v1/alerts", response_model=AlertRows, responses=ERRORS)
async def alerts(
    context: ContextDep,
    hours: HoursQuery = None,
    node: NodeQuery = None,
    severity: Severity | None = None,
    limit: LimitQuery = 100,
) -> Response:
    """Alerts with evidence, the SQL that shows them, what was done and how to undo it; newest first."""
    if hours is not None:
        params: dict[str, str | float] = {"hours": hours, "node": node or "", "severity": severity or ""}
        return await _archived(context, ALERTS_SQL, params, limit, severity=severity)
    with context.state.lock:
        recent = [
            one
            for one in reversed(context.state.alerts)
            if node in (None, one.node) and severity in (None, one.severity)
        ]
    return answer({**_live(context, map(msgspec.structs.asdict, recent), limit), "severity": severity})


def _live(context: Context, rows: Iterable[dict[str, Any]], limit: int) -> dict[str, Any]:
    items = []
    for row in rows:
        items.append(row)
        if len(items) > limit:
            break
    return {
        "cluster": context.settings.cluster,
        "ts_ns": context.wall_ns(),
        "source": "live",
        "items": items[:limit],
        "more": len(items) > limit,
        "notes": [],
    }


async def _archived(
    context: Context, sql: str, params: dict[str, str | float], limit: int, **extra: object
) -> Response:
    found = await context.archive.ask(sql, params, limit_rows=limit)
    return answer(
        {
            "cluster": context.settings.cluster,
            "ts_ns": context.wall_ns(),
            "source": "archive",
            "items": found.records(),
            "more": found.more,
            "notes": list(found.notes),
            **extra,
        }
    )
