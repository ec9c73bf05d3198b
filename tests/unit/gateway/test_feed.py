"""The feed goes on whatever the broker does, says what is wrong, and never reads history twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agents.gateway.cluster import ClusterState, PoolKey
from agents.gateway.feed import Feed
from models.control.profiles import TWIN_STACK
from streams.contract import codec
from streams.contract.topics import FEATURES
from tests.fakes.gateway_rig import CLUSTER, T0_NS, envelope, features


@dataclass
class Scripted:
    """A reader whose polls do what they are told, one after another; afterwards it is silent."""

    steps: list[Callable[[ClusterState], int]]
    missing: tuple[str, ...] = ()
    closed: int = 0
    idle: threading.Event = field(default_factory=threading.Event)

    def poll(self, state: ClusterState, timeout_s: float, most: int = 0) -> int:
        if not self.steps:
            self.idle.set()
            return 0
        return self.steps.pop(0)(state)

    def close(self) -> None:
        self.closed += 1


def one(state: ClusterState) -> int:
    state.fold(FEATURES.name, codec.encode(features(0, T0_NS)))
    return 1


def broken(_: ClusterState) -> int:
    raise OSError("the broker went away")


@pytest.fixture
def state() -> ClusterState:
    return ClusterState(CLUSTER, wall_ns=lambda: T0_NS)


def test_a_broker_that_is_away_and_a_reader_that_breaks_are_said_and_tried_again(
    state: ClusterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.gateway.feed.RETRY_S", 0.01)
    first, second = Scripted([broken]), Scripted([one])
    opened: list[tuple[float, float]] = []
    problems: list[str | None] = []

    def open_reader(history_s: float, events_s: float) -> Scripted:
        opened.append((history_s, events_s))
        if len(opened) == 1:
            raise ConnectionError("no broker answers")
        problems.append(feed.problem)
        return first if len(opened) == 2 else second

    feed = Feed(state, open_reader, history_s=60.0, after=lambda: None)
    feed.start()
    assert second.idle.wait(10)
    assert feed.problem is None and feed.alive
    feed.stop()
    assert problems == [
        "the broker cannot be read: no broker answers (ConnectionError)",
        "reading failed: the broker went away (OSError)",
    ]
    assert opened == [(60.0, 86400.0), (60.0, 86400.0), (0.0, 0.0)]
    assert (first.closed, second.closed, feed.alive) == (1, 1, False)
    assert "node-0" in state.latest


def test_missing_topics_are_named(state: ClusterState) -> None:
    reader = Scripted([], missing=("energy.alert.v1",))
    feed = Feed(state, lambda *_: reader, history_s=1.0, after=lambda: None)
    feed.start()
    assert reader.idle.wait(10)
    feed.stop()
    assert feed.problem == "topics missing: energy.alert.v1"


def test_pools_hold_one_group_each_and_engines_that_ended_are_forgotten(
    state: ClusterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [T0_NS]
    state.wall_ns = lambda: now[0]
    monkeypatch.setattr("agents.gateway.cluster.FORGET_EVERY", 1)
    state.fold("energy.power.desired.v1", codec.encode(envelope(3, T0_NS)))
    state.fold(FEATURES.name, codec.encode(features(3, T0_NS)))
    assert set(state.pools) == {PoolKey(TWIN_STACK, "chat", "hold-out")}
    assert state.pools[PoolKey(TWIN_STACK, "chat", "hold-out")].samples("tbt", T0_NS // 10**9) == 200
    assert state.pools[PoolKey(TWIN_STACK, "chat", "hold-out")].samples("tbt", T0_NS // 10**9 + 300) == 0
    now[0] += 601 * 10**9
    state.fold(FEATURES.name, codec.encode(features(0, now[0])))
    assert {view.node for view in state.engines.values()} == {"node-0"}
