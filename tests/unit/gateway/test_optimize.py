"""`POST /optimize`: numbers follow from what was measured; applying is asked for twice, signed, never repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from agents.cli.base import EoError
from agents.cli.config import ensure_keys
from streams.contract.signing import KeyRing
from tests.fakes.gateway_rig import GPUS, HOLDOUT, WATTS, Rig, envelope, uuids

APPLY: dict[str, Any] = {"strategy": "balanced", "constraints": {"max_power_cap": 680}, "apply": True}


def ask(client: TestClient, headers: dict[str, str], body: dict[str, Any], **more: str) -> Any:
    return client.post("/optimize", json=body, headers={**headers, **more})


def test_a_recommendation_names_watts_and_p99_with_confidence_and_reason(rig: Rig, client: TestClient) -> None:
    told = ask(client, rig.key("read"), {"strategy": "balanced", "constraints": {"min_replicas": 2}}).json()
    (group,) = told["groups"]
    assert (told["namespace"], group["gpus"], group["holdout_gpus"], group["replicas"]) == ("test", 24, 8, 6)
    assert group["baseline_w_per_gpu"] == WATTS["hold-out"]
    assert group["current_w_per_gpu"] == WATTS["controlled"]
    expected = WATTS["hold-out"] * (1 + group["expected_change_ratio"])
    assert group["expected_w_per_gpu"] == pytest.approx(expected, abs=0.1)
    assert -0.2 < group["expected_change_ratio"] < -0.02
    for metric in ("tbt", "ttft", "e2e"):
        assert group["expected_p99_ms"][metric] <= group["bound_ms"][metric]
    assert (group["quality"], group["made_from"]) == (
        "estimated",
        {"quality": "simulated", "shares": {"simulated": 1.0}},
    )
    assert group["confidence"] == "high" and "from what the group draws now" in group["confidence_reason"]
    assert "keeps its 6 replicas (at least 2 asked for)" in group["reason"]
    assert told["applied"]["state"] == "not_asked" and rig.sent == []


def test_a_namespace_is_what_its_pods_hold_now(rig: Rig, client: TestClient) -> None:
    rig.hold(0, "team-a", range(4))
    rig.hold(3, "team-a", range(2))  # of the hold-out
    rig.hold(1, "team-b", range(8))
    headers = rig.key("read")
    told = ask(client, headers, {"namespace": "team-a"}).json()
    (group,) = told["groups"]
    assert (told["namespace"], group["gpus"], group["holdout_gpus"]) == ("team-a", 4, 2)
    rows = client.get("/v1/gpus?namespace=team-b", headers=headers).json()["items"]
    assert {row["uuid"] for row in rows} == set(uuids(1)) and {row["pod"] for row in rows} == {"team-b-1"}
    assert client.get("/v1/gpus?node=node-2", headers=headers).json()["items"][0]["namespace"] is None
    for path, seen in (
        ("optimize", ask(client, headers, {"namespace": "team-c"})),
        ("gpus", client.get("/v1/gpus?namespace=team-c", headers=headers)),
    ):
        assert (seen.status_code, seen.headers["content-type"]) == (404, "application/problem+json"), path
        assert "did you mean 'team-" in seen.json()["fix"] and "team-a, team-b" in seen.json()["fix"]
    assert "there are: team-a, team-b, test." in ask(client, headers, {"namespace": "zzz"}).json()["fix"]


def test_a_silent_nodes_namespaces_are_not_known_any_more(rig: Rig, client: TestClient) -> None:
    rig.hold(0, "team-a", range(4))
    rig.clock.seconds += 31
    assert rig.context.placements.namespaces() == {}
    rig.context.placements.take()
    assert ask(client, rig.key("read"), {"namespace": "team-a"}).status_code == 404


def test_a_bolder_strategy_expects_fewer_watts_and_longer_waits(rig: Rig, client: TestClient) -> None:
    headers = rig.key("read")
    found = {
        name: ask(client, headers, {"strategy": name}).json()["groups"][0]
        for name in ("conservative", "balanced", "aggressive")
    }
    watts = [found[name]["expected_w_per_gpu"] for name in found]
    assert watts[0] >= watts[1] > watts[2]
    assert found["aggressive"]["expected_p99_ms"]["tbt"] > found["balanced"]["expected_p99_ms"]["tbt"]
    assert found["aggressive"]["power_cap_w"] == 630.0  # 90 % of the default limit, as the strategy's row says
    assert found["aggressive"]["confidence"] == "medium"


def test_a_cap_that_breaks_the_bounds_is_infeasible_and_the_lowest_that_keeps_them_is_named(
    rig: Rig, client: TestClient
) -> None:
    headers = rig.key("read")
    group = ask(client, headers, {"constraints": {"max_power_cap": 300}}).json()["groups"][0]
    assert group["feasible"] is False and group["power_cap_w"] is None
    assert "A cap of 300 W would break the latency bounds of balanced" in group["reason"]
    least = float(group["reason"].split("; ")[1].split(" W")[0])
    assert 300 < least < 700
    kept = ask(client, headers, {"constraints": {"max_power_cap": least}}).json()["groups"][0]
    broken = ask(client, headers, {"constraints": {"max_power_cap": least - 15}}).json()["groups"][0]
    assert (kept["feasible"], kept["power_cap_w"], broken["feasible"]) == (True, least, False)


def test_without_enough_holdout_samples_nothing_is_promised(tmp_path: Path) -> None:
    rig = Rig(tmp_path).live(seconds=2)
    with TestClient(rig.app) as client:
        group = ask(client, rig.key("read"), {"constraints": {"max_power_cap": 600}}).json()["groups"][0]
    assert (group["expected_w_per_gpu"], group["power_cap_w"], group["confidence"]) == (None, None, "none")
    assert group["expected_p99_ms"] == {"tbt": None, "ttft": None, "e2e": None}
    assert "The hold-out has 400 of 1000 samples of time between tokens" in group["reason"]


def test_applying_sends_signed_caps_that_end_and_never_to_the_holdout(rig: Rig, client: TestClient) -> None:
    ensure_keys(rig.context.settings.layout)
    headers = rig.key("operate")
    told = ask(client, headers, {**APPLY, "duration_s": 600}, **{"Idempotency-Key": "k1"}).json()
    assert told["applied"]["state"] == "sent"
    assert told["applied"]["caps"] == len(rig.sent) == 3 * GPUS
    assert not {word.scope for word in rig.sent} & {f"gpu/{uuid}" for uuid in uuids(int(HOLDOUT[-1]))}
    ring = KeyRing.load(rig.context.settings.layout.keyring)
    for word in rig.sent:
        ring.verify(word)
        assert (word.kind, word.max_power_w, word.cluster) == ("cap", 680.0, "test")
        assert word.expires_ns == rig.clock.wall_ns() + 600 * 10**9
        assert word.actor.startswith("api/") and "POST /optimize, balanced" in word.reason


def test_a_cap_is_put_after_the_newest_word_about_its_gpu(rig: Rig, client: TestClient) -> None:
    """Said by somebody whose clock is ahead of ours: otherwise the older word would go on counting."""
    ensure_keys(rig.context.settings.layout)
    ahead_ns = rig.clock.wall_ns() + 20 * 10**9
    rig.known_caps[f"gpu/{uuids(0)[0]}"] = ahead_ns
    told = ask(client, rig.key("operate"), {**APPLY, "duration_s": 600}, **{"Idempotency-Key": "k1"}).json()["applied"]
    late = [word for word in rig.sent if word.ts_ns != rig.clock.wall_ns()]
    assert [(word.scope, word.ts_ns) for word in late] == [(f"gpu/{uuids(0)[0]}", ahead_ns + 1)]
    assert late[0].expires_ns == told["expires_ns"] == ahead_ns + 1 + 600 * 10**9


def test_a_repeated_key_is_answered_again_and_sends_nothing(rig: Rig, client: TestClient) -> None:
    ensure_keys(rig.context.settings.layout)
    headers = rig.key("operate")
    first = ask(client, headers, APPLY, **{"Idempotency-Key": "k1"})
    sent = len(rig.sent)
    again = ask(client, headers, APPLY, **{"Idempotency-Key": "k1"})
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert len(rig.sent) == sent
    other = ask(client, headers, {**APPLY, "duration_s": 60}, **{"Idempotency-Key": "k1"})
    assert other.status_code == 409 and "'k1' was used before with another body" in other.json()["detail"]
    # Another caller's key of the same text is another key.
    assert ask(client, rig.key("operate"), APPLY, **{"Idempotency-Key": "k1"}).json()["applied"]["state"] == "sent"


def test_a_repeated_key_is_known_after_a_restart(rig: Rig, client: TestClient) -> None:
    ensure_keys(rig.context.settings.layout)
    headers = rig.key("operate")
    first = ask(client, headers, APPLY, **{"Idempotency-Key": "k1"}).json()
    later = Rig(rig.folder, clock=rig.clock)
    with TestClient(later.app) as anew:
        assert ask(anew, headers, APPLY, **{"Idempotency-Key": "k1"}).json() == first
    assert later.sent == []


def test_what_was_not_sent_may_be_tried_again(rig: Rig, client: TestClient) -> None:
    ensure_keys(rig.context.settings.layout)
    headers = rig.key("operate")
    rig.publish_error = EoError("127.0.0.1:1 did not take the word (no answer); nothing was changed.")
    failed = ask(client, headers, APPLY, **{"Idempotency-Key": "k1"})
    assert failed.status_code == 503 and "did not take the word" in failed.json()["detail"]
    rig.publish_error = None
    assert ask(client, headers, APPLY, **{"Idempotency-Key": "k1"}).json()["applied"]["state"] == "sent"


@pytest.mark.parametrize(
    ("role", "key", "status"),
    [
        ("read", "k", 403),
        ("operate", None, 400),
        ("operate", "", 422),
        ("operate", "k" * 129, 422),
        ("operate", "a b", 422),
    ],
)
def test_applying_needs_the_role_and_the_key(
    rig: Rig, client: TestClient, role: str, key: str | None, status: int
) -> None:
    more = {} if key is None else {"Idempotency-Key": key}
    seen = ask(client, rig.key(role), APPLY, **more)
    assert seen.status_code == status, seen.text
    assert rig.sent == []


@pytest.mark.parametrize("mode", ["observe", "recommend"])
def test_mode_observe_stays_observe(tmp_path: Path, mode: Any) -> None:
    rig = Rig(tmp_path).live(mode=mode)
    ensure_keys(rig.context.settings.layout)
    with TestClient(rig.app) as client:
        seen = ask(client, rig.key("operate"), APPLY, **{"Idempotency-Key": "k"})
    assert seen.status_code == 409 and rig.sent == []
    assert f"the cluster is in mode {mode}" in seen.json()["detail"] and "EO_MODE" in seen.json()["fix"]


def test_an_infeasible_cap_is_refused_and_no_cap_at_all_is_said(rig: Rig, client: TestClient) -> None:
    ensure_keys(rig.context.settings.layout)
    headers = rig.key("operate")
    low = ask(client, headers, {**APPLY, "constraints": {"max_power_cap": 250}}, **{"Idempotency-Key": "a"})
    assert low.status_code == 409 and "would break the latency bounds" in low.json()["detail"]
    none = ask(client, headers, {"strategy": "balanced", "apply": True}, **{"Idempotency-Key": "b"}).json()
    assert none["applied"]["state"] == "nothing_to_apply"
    assert "clocks are granted by the actuation job under EO_STRATEGY=balanced" in none["applied"]["reason"]
    assert rig.sent == []


def test_without_an_operator_key_nothing_is_sent(rig: Rig, client: TestClient) -> None:
    seen = ask(client, rig.key("operate"), APPLY, **{"Idempotency-Key": "k"})
    assert seen.status_code == 503 and "operator.key cannot be read" in seen.json()["detail"]
    assert "eo config keys" in seen.json()["fix"]


def test_in_mode_canary_only_what_is_granted_already_is_capped(tmp_path: Path) -> None:
    rig = Rig(tmp_path).live(mode="canary")
    ensure_keys(rig.context.settings.layout)
    rig.fold(envelope(0, rig.clock.wall_ns(), mode="canary", granted=False))  # node-0 is outside the canary's share
    with TestClient(rig.app) as client:
        told = ask(client, rig.key("operate"), APPLY, **{"Idempotency-Key": "k"}).json()
    assert told["applied"]["caps"] == 2 * GPUS
    assert not {word.scope for word in rig.sent} & {f"gpu/{uuid}" for uuid in uuids(0)}


def test_without_a_live_envelope_nobody_would_act(rig: Rig, client: TestClient) -> None:
    ensure_keys(rig.context.settings.layout)
    rig.clock.seconds += 16
    seen = ask(client, rig.key("operate"), APPLY, **{"Idempotency-Key": "k"})
    assert seen.status_code == 409 and "no node has a live envelope" in seen.json()["detail"]
    assert rig.sent == []


def test_silent_nodes_are_recommended_nothing(rig: Rig, client: TestClient) -> None:
    rig.clock.seconds += 60
    seen = ask(client, rig.key("read"), {})
    assert seen.status_code == 409 and "has reported for 30 s" in seen.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"strategy": "balancd"}, 422, "did you mean 'balanced'?"),
        ({"namespace": "tets"}, 404, "did you mean 'test'?"),
        (
            {"constraints": {"max_power_cap": 700_000}},
            422,
            "700000 is refused: input should be less than or equal to 2000",
        ),
        ({"constraints": {"max_power_cap": -1}}, 422, "constraints.max_power_cap"),
        ({"constraints": {"min_replicas": -1}}, 422, "constraints.min_replicas"),
        ({"constraints": {"max_watts": 5}}, 422, "constraints.max_watts"),
        ({"apply": "perhaps"}, 422, "apply"),
        ({"duration_s": 1}, 422, "duration_s"),
    ],
)
def test_bad_values_are_refused_with_the_value_and_the_bound(
    rig: Rig, client: TestClient, body: dict[str, Any], status: int, words: str
) -> None:
    seen = ask(client, rig.key("read"), body)
    assert seen.status_code == status
    assert words in seen.json()["detail"] + " " + seen.json()["fix"]
