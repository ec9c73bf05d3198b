"""`POST /forecast`: a metric's next hours as quantiles, the model that was chosen and how it did in the backtest."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from agents.gateway.access import guarded
from agents.gateway.answers import answer
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
    plan = horizon_of(asked.horizon_hours)
    history = await read_history(context.archive, asked.metric, plan, only)
    series = history.series(plan)
    try:
        found = await context.archive.run(lambda: forecast(series, plan.steps, minimum=METRICS[asked.metric].minimum))
    except TooShort as error:
        raise Problem(
            409, f"{error}.", fix="let `eo worker archive` run for longer, or ask for a shorter horizon_hours"
        ) from error
    return answer({**_told(context, asked, history, found), "namespace": namespace})


def _told(context: Context, asked: ForecastRequest, history: History, found: Outcome) -> dict[str, Any]:
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
        "cluster": context.settings.cluster,
        "metric": asked.metric,
        "unit": METRICS[asked.metric].unit,
        "step_s": history.step_s,
        "history_hours": round(len(history.values) * history.step_s / 3600, 3),
        "missing_ratio": round(found.missing_ratio, 4),
        "model": found.model,
        "season_s": found.season * history.step_s if found.season > 1 else 0.0,
        "points": points,
        "backtest": [_score(score) for score in found.scores],
        "quality": "estimated",
        "made_from": history.made_from,
    }


def _score(score: Any) -> dict[str, Any]:
    return {name: getattr(score, name) for name in ("model", "mae", "pinball", "mase", "coverage", "windows", "failed")}
