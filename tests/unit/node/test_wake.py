"""An arrival that a poller's thread has seen becomes a round of the control loop on the main one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agents.node.envelope import LiveEnvelope
from agents.node.run import AgentProcess
from agents.node.settings import NodeSettings
from streams.contract.layout import Layout


@pytest.fixture
def process(tmp_path: Path) -> AgentProcess:
    settings = NodeSettings(name="n1", sources=("procfs",), metrics_port=-1)
    return AgentProcess(settings, Layout(tmp_path), bootstrap=lambda: None)


def test_arrivals_are_taken_together_and_only_while_something_is_granted(process: AgentProcess) -> None:
    asked: list[frozenset[str] | None] = []

    def step(now_mono_s: float, *, only: frozenset[str] | None = None) -> None:
        asked.append(only)

    process.agent.control_step = step  # type: ignore[method-assign]
    process._wake(frozenset({"n1/a"}))
    process._wait(1.0)
    assert asked == []  # nothing is granted
    assert process.agent.control is not None
    process.agent.control.live = LiveEnvelope(1, 1, time.monotonic() + 60.0, {}, {})
    process._wake(frozenset({"n1/a"}))
    process._wake(frozenset({"n1/b"}))
    process._wait(1.0)
    process._wait(1.0)
    assert asked == [frozenset({"n1/a", "n1/b"})]  # one round for both
    process._wait(0.0)
    assert len(asked) == 1
    process.agent.control.live = None
    process.close()


def test_a_command_that_waits_behind_an_arrival_is_handled_too(process: AgentProcess) -> None:
    seen: list[bytes] = []
    process.agent.command = lambda raw, _ns: seen.append(raw)  # type: ignore[method-assign,assignment]
    process._wake(frozenset({"n1/a"}))
    process._receive(b"one", 1)
    process._wait(1.0)
    process._wait(1.0)
    assert seen == [b"one"]
    process.close()
