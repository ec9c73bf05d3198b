"""Jobs as the broker knows them: one that works, one that is killed, one that stands still, seen without asking any."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from agents.cli.jobs import JobHealth, JobProbe, judge
from agents.cli.main import main
from streams.contract import codec
from streams.contract.kafka import producer_config
from streams.contract.records import Alert
from streams.contract.topics import ALERT, FEATURES
from tests.faults.worker_rig import until
from tests.integration.conftest import JobWorkers
from tests.integration.test_actuation import Site
from tests.unit.jobs.support import features

pytestmark = pytest.mark.integration


def tell(site: Site, number: int) -> None:
    alert = Alert(
        cluster=site.cluster,
        node="n",
        alert_id=f"a{number}",
        rule="high_energy",
        severity="warning",
        state="firing",
        ts_ns=time.time_ns(),
        summary="hot",
        evidence={},
        runbook="docs/runbooks/high_energy.md",
    )
    producer = Producer(producer_config(site.bootstrap, "test-jobs"))
    producer.produce(ALERT.name, key=b"n", value=codec.encode(alert))
    assert producer.flush(20) == 0


def test_a_job_that_works_dies_and_stands_still(job_site: Site, workers: JobWorkers) -> None:
    probe = JobProbe(job_site.bootstrap, job_site.cluster, ("deliver", "ledger"))

    def health(later_s: float = 0.0) -> dict[str, JobHealth]:
        now_ns = time.time_ns() + int(later_s * 1e9)
        probe._wall_ns = lambda: now_ns
        return {look.job: judge(look, now_ns) for look in probe.look()}

    begun = time.time()
    never = health()
    assert (never["deliver"].live, never["deliver"].age_s) == (False, None)
    worker = workers.begin("deliver")
    worker.wait_ready()
    tell(job_site, 1)
    until(lambda: health()["deliver"].age_s is not None, 20, "a commit")
    seen = health()
    assert (seen["deliver"].live, seen["deliver"].ready, seen["deliver"].problem) == (True, True, None)
    age_s = seen["deliver"].age_s
    assert age_s is not None and 0 <= age_s <= time.time() - begun + 0.1
    assert seen["ledger"].live is False and "eo worker ledger" in (seen["ledger"].problem or "")
    until(lambda: health()["deliver"].lag_records == 0, 20, "all read")
    assert health(later_s=7200)["deliver"].ready is True  # idle for two hours is no fault

    worker.kill()
    until(lambda: health()["deliver"].live is False, 20, "the group to miss its only member")
    tell(job_site, 2)
    dead = health()["deliver"]
    assert (dead.ready, dead.lag_records) == (False, 1) and dead.age_s is not None


def test_top_status_and_features_show_one_cluster_of_two(
    job_site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = Producer(producer_config(job_site.bootstrap, "test-clusters"))
    other = f"{job_site.cluster}-other"
    for cluster, nodes in ((job_site.cluster, job_site.nodes[:2]), (other, job_site.nodes[2:5])):
        for node in nodes:
            record = msgspec.structs.replace(features(node, 1, ts_ns=time.time_ns()), cluster=cluster)
            producer.produce(FEATURES.name, key=node.encode(), value=codec.encode(record))
    assert producer.flush(20) == 0
    monkeypatch.setenv("KAFKA_BOOTSTRAP", job_site.bootstrap)
    monkeypatch.setenv("EO_DATA_DIR", str(job_site.layout.root))
    monkeypatch.setenv("EO_CLUSTER", job_site.cluster)

    def told(*words: str) -> Any:
        main([*words, "--json"])
        return json.loads(capsys.readouterr().out)

    assert {row["node"] for row in told("top", "-1")} == set(job_site.nodes[:2])
    assert {row["node"] for row in told("top", "-1", "--cluster", other)} == set(job_site.nodes[2:5])
    status = told("status")
    assert (status["nodes_seen"], status["healthy"]) == (2, False)  # no worker of this cluster runs
    assert status["jobs"]["actuation"]["live"] is False
    foreign = features(job_site.nodes[2], 1, ts_ns=1).uuid[0]
    assert main(["features", "get", foreign]) == 1
    assert f"no features of a GPU '{foreign}'" in capsys.readouterr().err


def test_records_that_wait_for_a_member_that_commits_nothing_are_seen(job_site: Site) -> None:
    from confluent_kafka import Consumer

    probe = JobProbe(job_site.bootstrap, job_site.cluster, ("deliver",))
    group = f"eo-{job_site.cluster}-deliver"
    tell(job_site, 1)
    hung = Consumer({"bootstrap.servers": job_site.bootstrap, "group.id": group, "enable.auto.commit": False})
    hung.subscribe([ALERT.name])
    try:
        until(lambda: hung.poll(0.1) is None and probe.look()[0].members == 1, 30, "the member")
        assert judge(probe.look()[0], time.time_ns()).live is True
        later = time.time_ns() + 120 * 10**9
        probe._wall_ns = lambda: later
        stuck = judge(probe.look()[0], later)
        assert (stuck.live, stuck.ready, stuck.age_s) == (True, False, None)
        assert "nothing was committed ever" in (stuck.problem or "")
    finally:
        hung.close()
