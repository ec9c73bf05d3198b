"""Who may call what: a table made from the application's own routes, keys, rates, and the demo's open door."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from agents.cli.base import EoError
from agents.gateway.access import GuardedRoute
from agents.gateway.keys import ROLES, allows
from agents.gateway.openapi import document
from agents.gateway.run import check
from agents.gateway.settings import GatewaySettings, is_loopback
from tests.fakes.gateway_rig import Rig

# The whole table: a new route fails here until somebody has decided who may call it.
EXPECTED = {
    ("GET", "/"): "public",
    ("GET", "/docs"): "public",
    ("GET", "/openapi.json"): "public",
    ("GET", "/static/{name}"): "public",
    ("GET", "/health"): "public",
    ("GET", "/health/live"): "public",
    ("GET", "/metrics"): "read",
    ("GET", "/v1/nodes"): "read",
    ("GET", "/v1/gpus"): "read",
    ("GET", "/v1/features/{entity}"): "read",
    ("GET", "/v1/energy"): "read",
    ("GET", "/v1/commands"): "read",
    ("GET", "/v1/anomalies"): "read",
    ("GET", "/v1/alerts"): "read",
    ("GET", "/v1/stream"): "read",
    ("POST", "/optimize"): "read",  # applying needs operate, asserted in test_optimize
    ("POST", "/forecast"): "read",
    ("GET", "/v1/plan"): "read",
    ("POST", "/v1/pareto"): "read",
    ("GET", "/v1/keys"): "admin",
    ("DELETE", "/v1/keys/{key_id}"): "admin",
}
BODIES = {
    "/optimize": {"strategy": "balanced"},
    "/forecast": {"metric": "power_w", "horizon_hours": 1},
    "/v1/pareto": {},
}


def routes(rig: Rig) -> dict[tuple[str, str], str]:
    """Every method and path of the application; a route without a role has role "none"."""
    return {
        (method, route.path): route.role if isinstance(route, GuardedRoute) else "none"  # type: ignore[attr-defined]
        for route in rig.app.routes
        for method in route.methods  # type: ignore[attr-defined]
    }


def call(client: TestClient, method: str, path: str, headers: dict[str, str]) -> int:
    filled = path.replace("{entity}", "GPU-0-0").replace("{key_id}", "nope").replace("{name}", "style.css")
    if path == "/v1/stream":  # a listener of its own test; here only the door
        headers = {**headers, "Last-Event-ID": "x" * 200}
    return client.request(method, filled, headers=headers, json=BODIES.get(path)).status_code


def test_every_route_has_the_role_that_was_decided_for_it(rig: Rig) -> None:
    assert routes(rig) == EXPECTED


def test_every_route_answers_401_without_and_403_with_too_low_a_role(rig: Rig, client: TestClient) -> None:
    keys = {role: rig.key(role) for role in ROLES}
    expired, wrong = rig.key("admin", expires_s=-1), {"Authorization": "Bearer eo_12345678_" + "x" * 43}
    for (method, path), needed in routes(rig).items():
        without = [
            call(client, method, path, headers) for headers in ({}, wrong, expired, {"Authorization": "Basic eDp5"})
        ]
        if needed == "public":
            assert without[0] == 200, path
            continue
        assert without == [401, 401, 401, 401], path
        for role in ROLES:
            status = call(client, method, path, keys[role])
            assert (status in (401, 403)) == (not allows(role, needed)), (path, role, status)  # type: ignore[arg-type]


def test_the_document_names_each_role_and_declares_its_refusals(rig: Rig) -> None:
    for path, operations in document(rig.app)["paths"].items():
        for method, operation in operations.items():
            role = EXPECTED[method.upper(), path]
            assert operation["x-role"] == role
            assert bool(operation["security"]) == (role != "public")
            declared = set(operation["responses"])
            assert role == "public" or {"401", "403", "429"} <= declared, path
            for status in declared - {"200", "503"}:
                assert list(operation["responses"][status]["content"]) == ["application/problem+json"]


def test_problems_say_what_and_the_next_step(rig: Rig, client: TestClient) -> None:
    seen = client.get("/v1/nodes")
    assert (seen.status_code, seen.headers["content-type"]) == (401, "application/problem+json")
    assert seen.headers["www-authenticate"].startswith("Bearer")
    assert seen.json() == {
        "type": "/docs#401",
        "title": "Unauthorized",
        "status": 401,
        "detail": "GET /v1/nodes needs a key.",
        "fix": "make one with `eo keys add NAME --role read`, send it as `Authorization: Bearer KEY`",
    }
    refused = client.get("/v1/keys", headers=rig.key("operate")).json()
    assert "has role 'operate', and GET /v1/keys needs 'admin'" in refused["detail"]
    assert "eo keys add NAME --role admin" in refused["fix"]
    expired = client.get("/v1/nodes", headers=rig.key("read", expires_s=-5)).json()
    assert "is expired" in expired["detail"]


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "x", lambda t: t[:12] + "_", lambda t: t.upper()])
def test_a_known_id_with_another_secret_is_no_key(rig: Rig, client: TestClient, change: Callable[[str], str]) -> None:
    text = rig.key("admin")["Authorization"].removeprefix("Bearer ")
    for wrong in (change(text), change(text).encode()):
        seen = client.get("/v1/nodes", headers={"X-API-Key": wrong})  # type: ignore[dict-item]
        assert seen.status_code == 401 and "is not known" in seen.json()["detail"]


def test_a_key_may_also_come_as_x_api_key(rig: Rig, client: TestClient) -> None:
    text = rig.key("read")["Authorization"].removeprefix("Bearer ")
    assert client.get("/v1/nodes", headers={"X-API-Key": text}).status_code == 200


def test_a_key_is_checked_before_the_body_is_read(client: TestClient) -> None:
    seen = client.post("/optimize", content=b"{not json", headers={"Content-Type": "application/json"})
    assert seen.status_code == 401


def test_only_hashes_are_kept_and_nobody_else_may_read_them(rig: Rig) -> None:
    text = rig.key("read")["Authorization"].removeprefix("Bearer ")
    path = rig.context.keys.path
    assert text.rsplit("_", 1)[1] not in path.read_text() and len(text.split("_", 2)[2]) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_revoked_key_stops_at_once_also_when_another_process_revoked_it(rig: Rig, client: TestClient) -> None:
    from agents.gateway.keys import KeyStore

    headers = rig.key("read")
    assert client.get("/v1/nodes", headers=headers).status_code == 200
    other = KeyStore(rig.context.keys.path)
    other.revoke(other.all()[0].id, now_ns=rig.clock.wall_ns())
    seen = client.get("/v1/nodes", headers=headers)
    assert seen.status_code == 401 and "is revoked" in seen.json()["detail"]


def test_a_damaged_key_file_lets_nobody_in_and_is_not_overwritten(rig: Rig, client: TestClient) -> None:
    headers = rig.key("admin")
    rig.context.keys.path.write_text("[{")
    seen = client.get("/v1/nodes", headers=headers)
    assert seen.status_code == 503 and "put it back from a copy" in seen.json()["fix"] + seen.json()["detail"]
    with pytest.raises(EoError, match="cannot be used"):
        rig.context.keys.add("x", "read", now_ns=1, expires_ns=None)
    assert rig.context.keys.path.read_text() == "[{"


def test_an_administrator_lists_and_ends_keys_and_sees_no_hash(rig: Rig, client: TestClient) -> None:
    admin, reader = rig.key("admin"), rig.key("read")
    listed = client.get("/v1/keys", headers=admin)
    by_role = {key["role"]: key["id"] for key in listed.json()["items"]}
    assert set(by_role) == {"admin", "read"}
    assert "sha256" not in listed.text
    assert client.delete(f"/v1/keys/{by_role['read']}", headers=admin).json()["state"] == "revoked"
    assert client.get("/v1/nodes", headers=reader).status_code == 401
    gone = client.delete("/v1/keys/zzz", headers=admin)
    assert gone.status_code == 404 and "there is no key 'zzz'" in gone.json()["detail"]


def test_rates_are_per_key_and_guesses_share_their_address(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"rate_per_s": 2.0}).live(seconds=1)
    with TestClient(rig.app) as client:
        one, two = rig.key("read"), rig.key("read")
        seen = [client.get("/v1/nodes", headers=one).status_code for _ in range(5)]
        assert seen == [200, 200, 200, 200, 429]
        assert client.get("/v1/nodes", headers=two).status_code == 200
        late = client.get("/v1/nodes", headers=one)
        assert late.headers["retry-after"] == "1" and "2 requests a second" in late.json()["detail"]
        guesses = [client.get("/v1/nodes", headers={"X-API-Key": f"eo_{n}_x"}).status_code for n in range(6)]
        assert guesses == [401] * 4 + [429] * 2
        rig.clock.seconds += 1.0
        assert client.get("/v1/nodes", headers=one).status_code == 200


def test_writes_have_a_rate_of_their_own(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"write_rate_per_s": 1.0}).live(seconds=1)
    with TestClient(rig.app) as client:
        headers = rig.key("read")
        seen = [client.post("/optimize", json={}, headers=headers).status_code for _ in range(3)]
        assert seen == [200, 200, 429]
        assert client.get("/v1/nodes", headers=headers).status_code == 200


def open_rig(folder: Path) -> Rig:
    (folder / "demo.json").write_text(json.dumps({"pid": 1}))
    return Rig(folder, {"open_demo": True}).live(seconds=2)


def test_the_demo_is_open_to_loopback_callers_only(tmp_path: Path) -> None:
    rig = open_rig(tmp_path)
    with TestClient(rig.app, base_url="http://127.0.0.1:8787", client=("127.0.0.1", 4000)) as near:
        assert near.get("/v1/nodes").status_code == 200
        assert near.get("/v1/keys").status_code == 403  # operate, not admin
        assert near.get("/v1/nodes", headers={"Authorization": "Bearer eo_bad"}).status_code == 401
    with TestClient(rig.app, base_url="http://127.0.0.1:8787", client=("10.0.0.9", 4000)) as far:
        assert far.get("/v1/nodes").status_code == 401
        assert far.get("/v1/nodes", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401
    # A page of another site whose name was turned to 127.0.0.1 still names itself in Host.
    with TestClient(rig.app, base_url="http://evil.example:8787", client=("127.0.0.1", 4000)) as rebound:
        assert rebound.get("/v1/nodes").status_code == 401


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_what_counts_as_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_open_gateway_is_refused_where_others_can_reach_it_and_outside_a_demo(tmp_path: Path) -> None:
    def settings(host: str) -> GatewaySettings:
        return GatewaySettings(open_demo=True, host=host, data_dir=tmp_path)

    with pytest.raises(EoError, match=r"the host is 0\.0\.0\.0, which others can reach; listen on 127\.0\.0\.1") as one:
        check(settings("0.0.0.0"))
    with pytest.raises(EoError, match="is no demo's data folder; unset it and make keys") as two:
        check(settings("127.0.0.1"))
    assert (one.value.code, two.value.code) == (3, 3)
    (tmp_path / "demo.json").write_text("{}")
    check(settings("127.0.0.1"))
