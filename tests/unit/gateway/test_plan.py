"""`GET /v1/plan` and `POST /v1/pareto`: the slow controller's word, and energy against latency as estimates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from agents.gateway.plans import PlanDoor, kafka_plans
from streams.errors import StreamsError
from tests.fakes.gateway_rig import WATTS, Rig

PLAN = {"cluster": "test", "ts_ns": 1, "pools": [{"recommended": 4, "reason": "4 replicas are enough."}]}


def test_the_plan_is_read_once_in_two_seconds(rig: Rig, client: TestClient) -> None:
    asked: list[int] = []

    def read(now_ns: int) -> list[dict[str, Any]]:
        asked.append(now_ns)
        return [PLAN]

    rig.context.plans = PlanDoor(read, monotonic=rig.clock.monotonic)
    for _ in range(3):
        told = client.get("/v1/plan", headers=rig.key("read")).json()
    assert told["items"] == [PLAN] and told["notes"] == [] and len(asked) == 1
    rig.clock.seconds += 3
    client.get("/v1/plan", headers=rig.key("read"))
    assert len(asked) == 2


def test_no_plan_is_said_and_a_broker_that_is_away_is_a_503(rig: Rig, client: TestClient) -> None:
    rig.context.plans = PlanDoor(lambda _: [], monotonic=rig.clock.monotonic)
    told = client.get("/v1/plan", headers=rig.key("read")).json()
    assert told["items"] == [] and "the actuation job writes one every OPTIMIZATION_INTERVAL" in told["notes"][0]
    rig.context.plans = PlanDoor(kafka_plans("", "test"), monotonic=rig.clock.monotonic)
    answer = client.get("/v1/plan", headers=rig.key("read"))
    assert answer.status_code == 503 and "no broker is named" in answer.json()["detail"]
    with pytest.raises(StreamsError, match="no broker is named"):
        kafka_plans("", "test")(0)


def test_every_strategy_is_a_point_and_dominated_ones_are_marked(rig: Rig, client: TestClient) -> None:
    body = {"price_per_kwh": 0.25, "g_per_kwh": 400}
    told = client.post("/v1/pareto", json=body, headers=rig.key("read")).json()
    (group,) = told["groups"]
    points = {point["name"]: point for point in group["points"]}
    assert {"b0", "lock 0.60", "conservative", "balanced", "aggressive", "ml-driven"} <= set(points)
    assert points["b0"]["gpu_w"] == pytest.approx(WATTS["hold-out"])
    assert points["b0"]["gpu_w"] > points["lock 0.90"]["gpu_w"] > points["lock 0.70"]["gpu_w"]
    assert points["b0"]["p99_tbt_ms"] < points["lock 0.60"]["p99_tbt_ms"]
    assert all(
        p["wall_w"] > p["gpu_w"] and p["cost_per_h"] == pytest.approx(p["wall_w"] / 4000) for p in points.values()
    )
    assert group["quality"] == "estimated" and group["made_from"]["quality"] == "simulated"
    for point in points.values():
        if (other := point["dominated_by"]) is not None:
            axes = ("gpu_w", "wall_w", "p99_ttft_ms", "p99_tbt_ms", "p99_e2e_ms")
            assert all(points[other][axis] <= point[axis] * 1.003 for axis in axes)
    assert points["b0"]["dominated_by"] is None


def test_without_a_price_cost_is_null_and_without_live_nodes_it_says_so(rig: Rig, client: TestClient) -> None:
    headers = rig.key("read")
    (group,) = client.post("/v1/pareto", json={}, headers=headers).json()["groups"]
    assert {point["cost_per_h"] for point in group["points"]} == {None}
    assert {point["carbon_g_per_h"] for point in group["points"]} == {None}
    assert client.post("/v1/pareto", json={"price_per_kwh": 1e9}, headers=headers).status_code == 422
    rig.clock.seconds += 600
    assert client.post("/v1/pareto", json={}, headers=headers).status_code == 409


def test_without_a_hold_out_there_are_no_points_but_a_reason(tmp_path: Path) -> None:
    rig = Rig(tmp_path).live(nodes=2)  # the hold-out is node-3
    with TestClient(rig.app) as client:
        (group,) = client.post("/v1/pareto", json={}, headers=rig.key("read")).json()["groups"]
    assert group["points"] == [] and "no baseline" in group["reason"]
