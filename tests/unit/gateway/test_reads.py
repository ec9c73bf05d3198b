"""What is read: nodes, GPUs, features, health, events, metrics. Unknown is null, totals say their kinds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from agents.gateway import shapes
from streams.contract import codec
from streams.contract.topics import FEATURES
from streams.jobs.registry import JOBS
from tests.fakes import archive as archive_fake
from tests.fakes.gateway_rig import GPUS, SECOND, Rig, alert, applied, features, job_look, uuids, verdict


def get(rig: Rig, client: TestClient, path: str) -> dict[str, object]:
    seen = client.get(path, headers=rig.key("read"))
    assert seen.status_code == 200, seen.text
    told: dict[str, object] = seen.json()
    return told


def test_nodes_have_their_sum_of_known_watts(rig: Rig, client: TestClient) -> None:
    told = shapes.Nodes.model_validate(get(rig, client, "/v1/nodes"))
    first, last = told.items[0], told.items[-1]
    assert (first.node, first.power_w, first.gpus_power_unknown) == ("node-0", 7 * 440.0, 1)
    assert (last.gpus_holdout, last.gpus_controlled, last.lease_left_s) == (GPUS, 0, 15.0)
    assert first.quality == "simulated"


def test_a_silent_node_keeps_its_row_and_loses_its_numbers(rig: Rig, client: TestClient) -> None:
    rig.clock.seconds += 31
    rig.context.views.forget()
    told = shapes.Nodes.model_validate(get(rig, client, "/v1/nodes"))
    assert all(node.stale and node.power_w is None and node.age_s == 31.0 for node in told.items)
    gpus = shapes.Gpus.model_validate(get(rig, client, "/v1/gpus"))
    assert all(gpu.power_w is None and gpu.util_ratio_mean_60s is None for gpu in gpus.items)


def test_gpus_are_paged_in_order_and_filtered(rig: Rig, client: TestClient) -> None:
    seen: list[str] = []
    after = ""
    for _ in range(10):
        page = shapes.Gpus.model_validate(get(rig, client, f"/v1/gpus?limit=7{after}"))
        seen += [gpu.uuid for gpu in page.items]
        if page.next is None:
            break
        after = f"&after={page.next}"
    assert seen == sorted(uuid for node in range(4) for uuid in uuids(node))
    held = shapes.Gpus.model_validate(get(rig, client, "/v1/gpus?group=hold-out"))
    assert {gpu.node for gpu in held.items} == {"node-3"}


def test_totals_of_mixed_kinds_say_their_shares(rig: Rig, client: TestClient) -> None:
    rig.fold(features(0, rig.clock.wall_ns() + SECOND, seq=10**9, quality="measured"))
    rig.context.views.forget()
    totals = rig.context.views.picture().totals
    assert totals["quality"] == "mixed"
    assert totals["shares"] == {"measured": 7 / 31, "simulated": 24 / 31}
    assert totals["gpus_power_unknown"] == 1
    assert totals["groups"]["default"]["power_w"] is None  # no GPU is in it: unknown, not 0


def test_features_expire(rig: Rig, client: TestClient) -> None:
    told = shapes.Features.model_validate(get(rig, client, "/v1/features/GPU-1-1"))
    fresh = {value.feature: value for value in told.values}
    assert (fresh["power_w_last"].value, fresh["power_w_last"].unit) == (440.0, "W")
    assert fresh["waste_w"].state == "unknown" and fresh["waste_w"].value is None
    rig.clock.seconds += 3600
    (late,) = shapes.Features.model_validate(get(rig, client, "/v1/features/GPU-1-1?feature=power_w_last")).values
    assert (late.value, late.state) == (None, "expired")


def test_health_names_each_dependency_with_its_age(rig: Rig, client: TestClient) -> None:
    rig.context.feed.problem = None
    seen = client.get("/health")
    told = shapes.Health.model_validate(seen.json())
    assert (seen.status_code, told.live, told.ready) == (200, True, True)
    assert told.dependencies["nodes"].age_s == 0.0
    assert told.dependencies["acknowledgements"].problem == "no node has acknowledged anything yet"
    assert told.dependencies["archive"].age_s is None
    rig.clock.seconds += 40
    late = client.get("/health")
    assert late.status_code == 503
    assert late.json()["dependencies"]["nodes"]["problem"] == "no node has reported for 40 s"
    assert late.json()["live"] is True


def test_health_lists_each_job_and_names_those_that_are_dead_or_stuck(rig: Rig, client: TestClient) -> None:
    rig.context.feed.problem = None
    rig.context.job_looks.take()
    told = shapes.Health.model_validate(client.get("/health").json())
    assert set(told.jobs) == set(JOBS) and told.not_ready == []
    assert told.jobs["deliver"].live is True and told.jobs["deliver"].age_s is None  # unknown, not 0
    committed_ns = rig.clock.wall_ns() - 90 * SECOND
    rig.looks = [
        job_look(job, **{"deliver": {"members": 0}, "ledger": {"lag_records": 5, "overdue_records": 5}}.get(job, {}))
        for job in JOBS
    ]
    rig.looks = [dataclasses.replace(look, committed_ns=committed_ns) for look in rig.looks]
    rig.context.job_looks.take()
    seen = client.get("/health")
    told = shapes.Health.model_validate(seen.json())
    assert (seen.status_code, told.ready, told.live) == (503, False, True)
    assert [sentence.split(":")[0] for sentence in told.not_ready] == ["job ledger", "job deliver"]
    assert "nothing was committed for 90 s" in told.not_ready[0] and "eo worker deliver" in told.not_ready[1]
    assert told.jobs["features"].ready is True and told.jobs["features"].age_s == 90.0
    assert client.get("/health/live").json() == {"live": True}


def test_an_old_look_says_nothing_of_now_and_unwatched_jobs_are_not_listed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, settings={"jobs": "features, deliver"}).live()
    rig.context.feed.problem = None
    assert {job.problem for job in rig.context.job_looks.newest().values()} == {"not looked at yet"}
    rig.context.job_looks.take()
    rig.clock.seconds += 31
    told = rig.context.job_looks.newest()
    assert set(told) == {"features", "deliver"} and all(job.ready is None for job in told.values())
    assert told["deliver"].problem == "not looked at for 31 s: the broker is slow to answer"
    with pytest.raises(ValueError, match="'delivr' is not a job; did you mean 'deliver'"):
        Rig(tmp_path, settings={"jobs": "delivr"})


def test_recent_events_come_newest_first_and_by_node(rig: Rig, client: TestClient) -> None:
    now = rig.clock.wall_ns()
    for second in range(3):
        rig.fold(applied(second, now + second))
        rig.fold(verdict(second, now + second))
        rig.fold(alert(second, now + second, "critical" if second == 2 else "warning"))
    commands = shapes.Rows.model_validate(get(rig, client, "/v1/commands?limit=10"))
    assert [row["node"] for row in commands.items] == ["node-2"] * 8 + ["node-1"] * 2
    assert commands.more and commands.items[0]["measured_w"] is None and commands.items[0]["quality"] == "simulated"
    anomalies = shapes.Rows.model_validate(get(rig, client, "/v1/anomalies?node=node-1"))
    assert [row["verdict_id"] for row in anomalies.items] == [f"v-1-{now + 1}"]
    alerts = shapes.AlertRows.model_validate(get(rig, client, "/v1/alerts?severity=critical"))
    assert [row["node"] for row in alerts.items] == ["node-2"]


def test_other_clusters_and_rubbish_are_counted_and_left_out(rig: Rig) -> None:
    import msgspec

    state = rig.context.state
    state.fold(FEATURES.name, codec.encode(msgspec.structs.replace(features(0, 1), cluster="other", node="alien")))
    state.fold(FEATURES.name, b"\xff{")
    state.fold("energy.unknown.v9", b"{}")
    assert state.counts == {"undecodable": 1, "other_cluster": 1}
    assert "alien" not in state.latest


def test_metrics_are_prometheus_text_without_unknown_values(rig: Rig, client: TestClient) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    headers = rig.key("read")
    client.get("/v1/gpus", headers=headers)
    client.get("/nothing/here", headers=headers)
    text = client.get("/metrics", headers=headers).text
    found = {family.name: family for family in text_string_to_metric_families(text)}
    watts = {s.labels["group"]: s.value for s in found["eo_cluster_gpu_power_watts"].samples}
    assert watts == {"controlled": 23 * 440.0, "hold-out": 8 * 470.0}
    routes = {s.labels["route"] for s in found["eo_gateway_requests"].samples}
    assert routes == {"/v1/gpus", "none"}


@pytest.fixture
def archived(tmp_path: Path) -> Rig:
    archive_fake.build(tmp_path / "archive")
    return Rig(tmp_path).live()


def test_energy_and_history_come_from_the_archive(archived: Rig) -> None:
    with TestClient(archived.app) as client:
        told = shapes.Energy.model_validate(get(archived, client, "/v1/energy?hours=24&by=engine"))
        by_engine = {row["engine"]: row for row in told.history}
        assert by_engine["eng-1"]["gpu_power_w_mean"] == 300.0
        assert by_engine["eng-1"]["quality"] == "simulated"
        assert told.now.groups["controlled"].power_w_per_gpu == 440.0
        commands = shapes.Rows.model_validate(get(archived, client, "/v1/commands?hours=24&node=node-a&limit=5"))
        assert (commands.source, len(commands.items), commands.more) == ("archive", 5, True)
        assert {row["node"] for row in commands.items} == {"node-a"}
        for path in ("anomalies", "alerts"):
            shapes.Rows.model_validate(
                {k: v for k, v in get(archived, client, f"/v1/{path}?hours=24").items() if k != "severity"}
            )


def test_an_empty_archive_is_said(rig: Rig, client: TestClient) -> None:
    told = get(rig, client, "/v1/energy")
    assert told["history"] == []
    assert "holds no rows yet" in str(told["notes"])


def test_pages_are_served_without_a_key_and_load_nothing_from_elsewhere(client: TestClient) -> None:
    from agents.gateway.routes.pages import files

    for path in ("/", "/docs"):
        seen = client.get(path)
        assert seen.status_code == 200 and "default-src 'self'" in seen.headers["content-security-policy"]
        assert "<script>" not in seen.text and " onclick" not in seen.text and " style=" not in seen.text
    for name, (content, _) in files().items():
        assert b"http://" not in content and b"https://" not in content, name
        assert client.get(f"/static/{name}").status_code == 200
