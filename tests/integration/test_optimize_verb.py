"""`eo optimize` on a real broker: what it recommends, for whom, and that its caps are signed words that others read."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from agents.cli import intents
from agents.cli.main import main
from streams.contract import codec
from streams.contract import records as r
from streams.contract.kafka import producer_config
from streams.contract.topics import topic_of
from tests.fakes import gateway_rig as fake
from tests.integration.test_actuation import Site

pytestmark = pytest.mark.integration
SECONDS = 30


def telemetry(node: int, ts_ns: int) -> r.NodeTelemetry:
    """The first four GPUs of node-0 and node-3 belong to team-a, the rest of node-0 to team-b, others to nobody."""
    held: tuple[str | None, ...] = {
        0: (*("team-a",) * 4, *("team-b",) * 4),
        3: (*("team-a",) * 4, *(None,) * 4),
    }.get(node, (None,) * 8)
    gpu = r.GpuColumns(uuid=fake.uuids(node), namespace=held, pod=tuple(name and f"{name}-0" for name in held))
    return r.NodeTelemetry(
        cluster=fake.CLUSTER,
        node=f"node-{node}",
        boot_id="boot",
        seq=1,
        ts_ns=ts_ns,
        source=("twin",),
        quality="simulated",
        gpu=gpu,
    )


def publish(site: Site, cluster: str) -> None:
    """What a running cluster of four nodes has said in the last seconds."""
    producer = Producer(producer_config(site.bootstrap, "test-optimize"))
    now = time.time_ns()
    records: list[r.Record] = [fake.envelope(node, now) for node in range(fake.NODES)]
    records += [
        fake.features(node, now - (SECONDS - second) * fake.SECOND, seq=second)
        for second in range(SECONDS)
        for node in range(fake.NODES)
    ]
    records += [telemetry(node, now) for node in range(fake.NODES)]
    for record in records:
        mine: Any = msgspec.structs.replace(record, cluster=cluster)
        producer.produce(topic_of(type(record)).name, key=mine.node.encode(), value=codec.encode(mine))
    assert producer.flush(30) == 0


def test_it_recommends_narrows_to_a_namespace_and_applies(
    job_site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = job_site
    for name, value in (
        ("KAFKA_BOOTSTRAP", site.bootstrap),
        ("EO_DATA_DIR", str(site.layout.root)),
        ("EO_CLUSTER", site.cluster),
    ):
        monkeypatch.setenv(name, value)
    # The namespaces of telemetry are looked at for the last seconds only: what is told is told anew before each look.
    publish(site, f"{site.cluster}-other")  # the same nodes elsewhere: counted in nothing here
    publish(site, site.cluster)

    def told(*words: str) -> Any:
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    def again() -> None:
        producer = Producer(producer_config(site.bootstrap, "test-optimize"))
        for node in range(fake.NODES):
            mine = msgspec.structs.replace(telemetry(node, time.time_ns()), cluster=site.cluster)
            producer.produce(topic_of(r.NodeTelemetry).name, key=mine.node.encode(), value=codec.encode(mine))
        assert producer.flush(30) == 0

    whole = told("optimize")
    (group,) = whole["groups"]
    assert (group["gpus"], group["holdout_gpus"], group["feasible"]) == (24, 8, True)
    assert group["baseline_w_per_gpu"] == fake.WATTS["hold-out"] and group["expected_w_per_gpu"] < 470.0
    assert whole["namespace"] == site.cluster and whole["total"]["gpus_counted"] == 24

    again()
    team = told("optimize", "--namespace", "team-a", "--max-power-cap", "690")
    assert [(one["gpus"], one["holdout_gpus"]) for one in team["groups"]] == [(4, 4)]
    again()
    assert main(["optimize", "--namespace", "team-x"]) == 2
    assert f"there are: {site.cluster} (the whole cluster), team-a, team-b" in capsys.readouterr().err
    again()
    assert main(["optimize", "--namespace", "team-b"]) == 0
    assert f"cluster {site.cluster}, namespace team-b" in capsys.readouterr().out.splitlines()[0]

    words = ("optimize", "--namespace", "team-a", "--max-power-cap", "690", "--apply")
    again()
    assert told(*words, "--dry-run")["applied"]["state"] == "dry_run"
    assert told("cap", "show") == []
    # Another operator's clock is half a minute ahead: what is said later has to count all the same.
    ahead = intents.make(
        "cap",
        f"gpu/{fake.uuids(0)[0]}",
        layout=site.layout,
        reason="a faster clock",
        duration_s=300,
        max_power_w=650.0,
        now_ns=lambda: time.time_ns() + 30 * fake.SECOND,
        cluster=site.cluster,
    )
    intents.publish_all(site.bootstrap, [ahead])
    again()
    sent = told(*words, "--for", "10m", "--yes")["applied"]
    assert (sent["state"], sent["caps"]) == ("sent", 4)
    shown = told("cap", "show")
    assert {row["scope"] for row in shown} == {f"gpu/{uuid}" for uuid in fake.uuids(0)[:4]}
    assert {(row["max_power_w"], row["refused"]) for row in shown} == {(690.0, None)}
    assert all(0 < row["expires_ns"] - time.time_ns() <= 631 * 10**9 for row in shown)
