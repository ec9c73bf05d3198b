"""The plan in words, whatever is missing in it."""

from __future__ import annotations

from typing import Any

import pytest

from agents.cli import explain_topics, status
from agents.cli.plan_text import explain_lines, status_lines
from streams.errors import StreamsError

PLAN: dict[str, Any] = {
    "pools": [
        {
            "stack": "s",
            "workload": "chat",
            "serving": 6,
            "recommended": 4,
            "reason": "4 replicas are enough.",
            "note": "Nobody acts.",
            "quality": "simulated",
        },
        {"stack": "t", "workload": "code", "serving": 1, "recommended": None, "reason": "Nothing is known."},
    ],
    "rows": [{"reason": "Row r1: a budget of 900 W cannot be kept."}],
    "learning": [
        {"stack": "s", "workload": "chat", "acting": False, "gate": {"open": False, "reason": "Stays in recommend."}}
    ],
    "pid": {"kind": "pid: blind to latency", "target_w": 400.0, "gpus": 3, "limit_w_mean": 410.0},
    "tariff": {"price_per_kwh": 0.3, "currency": "EUR", "g_per_kwh": None, "weight": 1.2},
}


def test_status_has_a_line_for_everything_that_is_planned() -> None:
    assert status_lines([PLAN]) == [
        "replicas   s (chat, simulated): 6 serve, 4 recommended. 4 replicas are enough.",
        "replicas   t (code): 1 serve, no number can be recommended. Nothing is known.",
        "row        Row r1: a budget of 900 W cannot be kept.",
        "learning   s (chat): gate closed, only recommends. Stays in recommend.",
        "pid        target 400.0 W, 3 GPUs at 410 W in the mean (pid: blind to latency)",
        "tariff     0.3 EUR/kWh: a watt weighs 1.20",
    ]


def test_explain_tells_of_the_gpu_s_own_pool_only() -> None:
    lines = explain_lines([PLAN], engine_pools=[("s", "chat")])
    assert (
        lines[0].startswith("Replicas of s (chat, simulated): 6 serve, 4 recommended.") and "Nobody acts." in lines[0]
    )
    assert not any("Nothing is known" in line for line in lines)


def test_a_plan_of_another_release_is_read_as_far_as_it_goes() -> None:
    assert status_lines([{}, {"pools": 3, "rows": ["x"], "pid": None, "tariff": []}]) == []
    assert "gate closed" in status_lines([{"learning": [{"gate": None}]}])[0]


def test_a_plan_that_cannot_be_read_does_not_hide_the_rest_of_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> list[dict[str, Any]]:
        raise StreamsError("topic energy.state.job.v1 cannot be read; run `eo topics apply`")

    monkeypatch.setattr("streams.plan.read_plans", away)
    monkeypatch.setattr(explain_topics, "_since", lambda *_: [])
    (line,) = explain_topics._plan(None, "n1", None, cluster="c1", now_ns=0)  # type: ignore[arg-type]  # not asked
    assert "plan cannot be read: topic energy.state.job.v1" in line
    monkeypatch.setattr("streams.replay.Replay.__init__", away)
    assert "cannot be read" in str(status._plans("127.0.0.1:1", "c1", 0)[1])
