"""`POST /forecast` on an archive that is long enough, and on one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from agents.gateway import shapes
from agents.gateway.history import STEPS_MAX, horizon_of
from tests.fakes import archive as archive_fake
from tests.fakes.gateway_rig import Rig

MINUTES = 60


def long_archive(folder: Path) -> Path:
    """An hour of two GPUs: 300 W and 100 W, every other minute 20 W more; minute 30 is missing."""
    start = archive_fake.START_NS // 60_000_000_000 * 60_000_000_000
    rows = [
        {
            "cluster": "test",
            "node": "n",
            "ts": (start + (minute * 60 + second) * 10**9) // 1000,
            "ts_ns": start + (minute * 60 + second) * 10**9,
            "quality": "simulated" if uuid == "GPU-x" else "measured",
            "uuid": uuid,
            "power_w": watts + 20.0 * (minute % 2),
            "util_ratio": 0.5,
            "namespace": "team-a" if uuid == "GPU-x" else "team-b",
        }
        for minute in range(MINUTES)
        if minute != 30
        for second in (0, 20, 40)
        for uuid, watts in (("GPU-x", 300.0), ("GPU-y", 100.0))
    ]
    from streams.sinks.schemas import TELEMETRY

    schema = TELEMETRY.plain_schema
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    place = folder / "archive" / "topic=telemetry.node" / "date=2025-01-15" / "hour=10"
    place.mkdir(parents=True)
    pq.write_table(table, place / "p0-0-999.parquet")
    return folder


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(long_archive(tmp_path)).live(seconds=1)


def ask(client: TestClient, rig: Rig, body: dict[str, Any]) -> Any:
    return client.post("/forecast", json=body, headers=rig.key("read"))


def test_quantiles_model_and_backtest(rig: Rig, client: TestClient) -> None:
    seen = ask(client, rig, {"metric": "power_w", "horizon_hours": 0.1})
    assert seen.status_code == 200, seen.text
    told = shapes.Forecast.model_validate(seen.json())
    assert (told.unit, told.step_s, len(told.points), told.season_s) == ("W", 60.0, 6, 0.0)
    assert told.missing_ratio == pytest.approx(1 / 59, abs=1e-3)
    assert told.made_from.quality == "mixed" and told.made_from.shares["simulated"] == pytest.approx(0.5)
    assert {score.model.partition("(")[0] for score in told.backtest} == {"seasonal_naive", "holt_winters", "snarimax"}
    assert told.model in {score.model for score in told.backtest if score.failed is None}
    for point in told.points:
        assert list(point.quantiles.values()) == sorted(point.quantiles.values())
        assert 380 <= point.mean <= 460
    gaps = [b.ts_ns - a.ts_ns for a, b in zip(told.points, told.points[1:], strict=False)]
    assert set(gaps) == {60 * 10**9}


def test_a_namespace_narrows_it(rig: Rig, client: TestClient) -> None:
    told = ask(client, rig, {"metric": "power_w", "horizon_hours": 0.1, "namespace": "team-b"}).json()
    assert told["namespace"] == "team-b" and 95 <= told["points"][0]["mean"] <= 125
    assert told["made_from"] == {"quality": "measured", "shares": {"measured": 1.0}}
    wrong = ask(client, rig, {"metric": "power_w", "horizon_hours": 1, "namespace": "team-c"})
    assert wrong.status_code == 404 and "did you mean 'team-" in wrong.json()["fix"]


def test_too_little_history_is_said_and_nothing_is_invented(rig: Rig, client: TestClient) -> None:
    seen = ask(client, rig, {"metric": "power_w", "horizon_hours": 24})
    assert seen.status_code == 409
    assert "h of history are too little for a horizon of 24 h" in seen.json()["detail"]
    none = ask(client, rig, {"metric": "tokens_per_s", "horizon_hours": 1})
    assert none.status_code == 409 and "0.00 h of history are too little for a horizon of 1 h" in none.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"metric": "power", "horizon_hours": 1}, 404, "did you mean 'power_w'?"),
        ({"metric": "power_w", "horizon_hours": 0}, 422, "horizon_hours"),
        ({"metric": "power_w", "horizon_hours": 1e9}, 422, "less than or equal to 168"),
        ({"metric": "power_w"}, 422, "horizon_hours: is missing"),
        ({"metric": "power_w", "horizon_hours": "24h"}, 422, "horizon_hours"),
        ({"metric": "x'; DROP TABLE telemetry_node; --", "horizon_hours": 1}, 404, "there is no metric"),
        ({"metric": "power_w", "horizon_hours": 1, "namespace": "' OR 1=1 --"}, 404, "there is no namespace"),
    ],
)
def test_bad_requests(rig: Rig, client: TestClient, body: dict[str, Any], status: int, words: str) -> None:
    seen = ask(client, rig, body)
    assert seen.status_code == status, seen.text
    assert words in seen.json()["detail"] + " " + seen.json()["fix"]


@pytest.mark.parametrize("hours", [5e-324, 0.01, 0.1, 1, 1.6, 6, 8, 24, 25, 96.5, 168])
def test_every_horizon_is_covered_in_few_enough_steps(hours: float) -> None:
    plan = horizon_of(hours)
    assert 1 <= plan.steps <= STEPS_MAX
    assert plan.steps * plan.step_s >= min(hours, 168) * 3600 - 1
