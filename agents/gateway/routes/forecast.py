"""`POST /forecast`: a metric's next hours as quantiles, the model that was chosen and how it did in the backtest."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from agents.gateway.access import guarded
from agents.gateway.answers import answer
from agents.gateway.archive import ArchiveDoor
from agents.gateway.context import Context, ContextDep
from agents.gateway.history import METRICS, History, horizon_of, read_history
from agents.gateway.namespaces import gpus_of
from agents.gateway.problems import Problem, declared, nearest, shown
from agents.gateway.shapes import Forecast, ForecastRequest
from models.forecast.base import QUANTILES, TooShort
from models.forecast.select import Outcome, forecast

router = APIRouter(route_class=guarded("read"), tags=["forecast"])


@router.post("/forecast", response_model=Forecast, responses=declared(400, 401, 403, 404, 409, 413, 422, 429, 503))
async def ahead(context: ContextDep, asked: ForecastRequest) -> Response:
    """Quantiles of each step. With too little history 409 says how much there is and how much is needed."""
    if asked.metric not in METRICS:
        raise Problem(404, f"there is no metric {shown(asked.metric)} to forecast.", fix=nearest(asked.metric, METRICS))
    namespace, only = await gpus_of(context, asked.namespace)
    try:
        answered = await _own(context, context.archive, asked, only)
    except TooShort as error:
        if context.sample is None or only is not None:
            raise Problem(
                409, f"{error}.", fix="let `eo worker archive` run for longer, or ask for a shorter horizon_hours"
            ) from error
        # In one thread at a time: the pool of that archive is asked by nobody before it is there.
        await context.sample.door.run(context.sample.ready)
        answered = await _own(context, context.sample.door, asked, None)
        answered["notes"] = [context.sample.note]
    return answer({"cluster": context.settings.cluster, "namespace": namespace, **answered})


async def _own(
    context: Context, archive: ArchiveDoor, asked: ForecastRequest, only: Collection[str] | None
) -> dict[str, Any]:
    """The forecast from one archive; raises TooShort."""
    plan = horizon_of(asked.horizon_hours)
    history = await read_history(archive, asked.metric, plan, only)
    series = history.series(plan)
    found = await context.archive.run(lambda: forecast(series, plan.steps, minimum=METRICS[asked.metric].minimum))
    return told(asked.metric, history, found)


def told(metric: str, history: History, found: Outcome) -> dict[str, Any]:
    """A forecast as it is told, here and by `eo forecast`."""
    step_ns = int(history.step_s * 1e9)
    points = [
        {
            "ts_ns": history.end_ns + step * step_ns,
            "mean": round(mean, 4),
            "quantiles": {f"{q:g}": round(value, 4) for q, value in zip(QUANTILES, quantiles, strict=True)},
        }
        for step, (mean, quantiles) in enumerate(zip(found.mean, found.quantiles, strict=True))
    ]
    return {
        "metric": metric,
        "unit": METRICS[metric].unit,
        "step_s": history.step_s,
        "history_hours": round(len(history.values) * history.step_s / 3600, 3),
        "missing_ratio": round(found.missing_ratio, 4),
        "model": found.model,
        "season_s": found.season * history.step_s if found.season > 1 else 0.0,
        "points": points,
        "backtest": [_score(score) for score in found.scores],
        "quality": "estimated",
        "made_from": history.made_from,
        "notes": [],
    }


def _score(score: Any) -> dict[str, Any]:
    return {name: getattr(score, name) for name in ("model", "mae", "pinball", "mase", "coverage", "windows", "failed")}
