"""Bodies and queries that nobody should send: each has a stated answer as a problem."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.fakes.gateway_rig import Rig

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{not json", 400, "the body is not JSON"),
        (b"", 422, "body"),
        (b'{"strategy": "\xff\xfe"}', 400, "it is not UTF-8 JSON"),
        (b"[" * 20_000, 400, "body"),
        (b'{"constraints": {"max_power_cap": NaN}}', 422, "constraints.max_power_cap"),
        (b'{"constraints": {"max_power_cap": Infinity}}', 422, "constraints.max_power_cap"),
        (b'{"constraints": {"max_power_cap": 1e999}}', 422, "constraints.max_power_cap"),
        (b'{"constraints": {"min_replicas": 1' + b"0" * 5000 + b"}}", 400, "body"),
        (b"null", 422, "body"),
        (b"[]", 422, "body"),
        (b'"balanced"', 422, "body"),
        (b'{"namespace": "a\\u0000b"}', 422, "namespace"),
        (b'{"namespace": "' + b"n" * 300 + b'"}', 422, "namespace"),
    ],
)
def test_bodies(rig: Rig, client: TestClient, body: bytes, status: int, words: str) -> None:
    seen = client.post("/optimize", content=body, headers={**rig.key("read"), **JSON})
    assert seen.status_code == status, seen.text
    assert seen.headers["content-type"] == "application/problem+json"
    told = seen.json()
    assert words in told["detail"] and told["fix"]
    assert len(seen.content) < 2000  # what came in is not thrown back whole


def test_a_body_that_is_no_json_by_its_own_word_is_refused(rig: Rig, client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):  # the second is what curl -d sends
        seen = client.post(
            "/optimize", content=b'{"strategy": "balanced"}', headers={**rig.key("read"), "Content-Type": kind}
        )
        assert seen.status_code == 422
        assert "does not call itself JSON" in seen.json()["detail"]
        assert seen.json()["fix"] == "send the header Content-Type: application/json"


def test_bodies_above_the_bound_are_refused_with_and_without_a_stated_length(rig: Rig, client: TestClient) -> None:
    headers = {**rig.key("read"), **JSON}
    stated = client.post("/optimize", content=b" " * 70_000, headers=headers)
    unstated = client.post("/optimize", content=(b" " * 1000 for _ in range(70)), headers=headers)
    for seen in (stated, unstated):
        assert seen.status_code == 413, seen.text
        assert "65536 bytes are the most" in seen.json()["detail"]
        assert "EO_GATEWAY_BODY_MAX_BYTES" in seen.json()["fix"]
    assert "70000 bytes" in stated.json()["detail"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/gpus?limit=0", 422, "limit"),
        ("/v1/gpus?limit=x", 422, "limit"),
        ("/v1/gpus?group=holdout", 422, "did you mean 'hold-out'?"),
        ("/v1/gpus?node=node-9", 404, "did you mean 'node-"),
        ("/v1/energy?hours=nan", 422, "hours"),
        ("/v1/energy?hours=1e99", 422, "hours"),
        ("/v1/energy?by=rack", 422, "by"),
        ("/v1/alerts?severity=fatal", 422, "severity"),
        ("/v1/features/GPU-9-9", 404, "did you mean 'GPU-"),
        ("/v1/features/GPU-1", 409, "8 GPUs begin with 'GPU-1'"),
        ("/v1/features/GPU-1-1?feature=power_w_lats", 404, "did you mean 'power_w_last'?"),
        ("/v1/node", 404, "did you mean '/v1/nodes'?"),
        ("/static/..%2f..%2fkeys.py", 404, "there is no"),
        ("/static/passwd", 404, "there is no page 'passwd'"),
    ],
)
def test_queries(rig: Rig, client: TestClient, path: str, status: int, words: str) -> None:
    seen = client.get(path, headers=rig.key("read"))
    assert seen.status_code == status, seen.text
    assert words in seen.json()["detail"] + " " + seen.json()["fix"]


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "", "x" * 300, "127.0.0.1:notaport"])
def test_a_broken_host_header_is_no_failure_of_ours(rig: Rig, client: TestClient, host: str) -> None:
    assert client.get("/v1/nodes", headers={"Host": host}).status_code == 401
    assert client.get("/v1/nodes", headers={**rig.key("read"), "Host": host}).status_code == 200


def test_another_method_is_refused_with_the_right_one(rig: Rig, client: TestClient) -> None:
    seen = client.put("/optimize", headers=rig.key("read"))
    assert (seen.status_code, seen.headers["allow"]) == (405, "POST")
    assert seen.json()["fix"] == "use POST"


def test_a_failure_of_ours_is_a_problem_without_its_traceback(rig: Rig, client: TestClient) -> None:
    rig.context.views.picture = None  # type: ignore[method-assign, assignment]
    seen = client.get("/v1/nodes", headers=rig.key("read"))
    assert seen.status_code == 500
    assert "Traceback" not in seen.text and seen.json()["fix"].startswith("the gateway's log")
