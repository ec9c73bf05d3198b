"""The slow step on a real broker: the plan is read where people look, a row's envelopes are committed and verify."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agents.cli import explain_topics, status
from agents.cli.explain_story import text
from agents.gateway.plans import kafka_plans
from streams.plan import read_plans
from streams.replay import Replay
from tests.integration.test_actuation import Running, Site
from tests.unit.jobs.support import features

pytestmark = pytest.mark.integration
GPUS = 6 * 8


@pytest.fixture
def site(topics: str, tmp_path: Path) -> Iterator[Site]:
    yield Site(topics, tmp_path)


def test_a_row_reaches_the_nodes_and_its_plan_the_people(site: Site) -> None:
    share_w = 500.0 * GPUS
    site.clock.now_s -= 85.0  # so that it is now when the wait below is over: people read by the broker's clock
    running = Running(site, row_budget_w=share_w * site.partitions, slow_interval_s=5.0)
    for _ in range(10):
        running.beat(8.0)  # one of several partitions: what an earlier owner may have granted runs out first
    for _ in range(14):
        running.beat()
    node = site.nodes[0]
    running.stop()
    newest = {c.node: c for c in site.commands()}
    for command in newest.values():
        site.keyring.verify(command)
        if any(w is not None for w in command.gpu.max_power_w):  # a node may be held out as a whole
            assert command.brake is not None and command.on_expiry == "hold"
    held = sum(h for c in newest.values() for h in c.gpu.holdout)
    granted = [w for c in newest.values() for w in c.gpu.max_power_w if w is not None]
    assert len(granted) == GPUS - held and sum(granted) + 700.0 * held <= share_w
    now_ns = site.clock.wall_ns()
    with Replay(site.bootstrap, "test-plan") as replay:
        (plan,) = read_plans(replay, site.cluster, now_ns=now_ns)
        assert read_plans(replay, site.cluster, now_ns=now_ns + 10**12) == []
        assert read_plans(replay, "another", now_ns=now_ns) == []
    assert plan["rows"][0]["share_w"] == pytest.approx(share_w) and plan["rows"][0]["budget_w"] <= share_w + 1e-6
    assert "nothing rises, because no newer plan tells of partitions" in plan["rows"][0]["reason"]  # nobody owns them
    assert kafka_plans(site.bootstrap, site.cluster)(now_ns) == [plan]
    record = features(node, 1, ts_ns=now_ns)
    site.send(msgspec.structs.replace(record, cluster=site.cluster), node)
    told = text(explain_topics.gather(site.bootstrap, node, cluster=site.cluster, since_s=900, now_ns=now_ns))
    assert "Row row: Ceilings of" in told and "no profile" in told
    found, problem = status._plans(site.bootstrap, site.cluster, now_ns)
    assert problem is None and found == [plan]
