"""`eo keys`, `eo gateway` and `eo optimize` as a user types them, as far as they go without a broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest

from agents.cli.main import main
from agents.cli.processes import read_json

Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    return tmp_path


def test_a_key_is_made_shown_once_listed_and_ended(capsys: Out) -> None:
    assert main(["keys", "list"]) == 0
    assert "There are no keys" in capsys.readouterr().out
    assert main(["keys", "add", "grafana", "--role", "read", "--for", "1h", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["key"].startswith(f"eo_{made['id']}_") and made["expires_ns"] - made["created_ns"] == 3600 * 10**9
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert "grafana" in listed and "live" in listed and made["key"] not in listed
    assert main(["keys", "revoke", made["id"]]) == 3
    assert "pass --yes" in capsys.readouterr().err
    assert main(["keys", "revoke", made["id"], "--yes"]) == 0
    assert main(["keys", "list", "--json"]) == 0
    assert '"revoked"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["keys", "add", "x"], 2, "eo keys add NAME --role read|operate|admin"),
        (["keys", "revoke"], 2, "eo keys revoke ID"),
        (["keys", "add", " ", "--role", "read"], 1, "is not 1 to 80 printable characters"),
        (["keys", "revoke", "nope", "--yes"], 1, "there is no key 'nope'"),
        (["optimize", "--strategy", "balancd"], 2, "did you mean balanced?"),
        (["optimize", "--max-power-cap", "650000"], 2, "give watts of one GPU, not milliwatts"),
        (["optimize", "--min-replicas", "-1"], 2, "is below 0"),
        (["optimize"], 1, "no broker"),
        (["gateway", "--port", "70000"], 2, "EO_GATEWAY_PORT is 70000"),
        (["gateway"], 1, "no broker"),
    ],
)
def test_bad_use_is_one_sentence(capsys: Out, words: list[str], code: int, told: str) -> None:
    assert main(words) == code
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_an_open_gateway_on_a_reachable_host_is_refused(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EO_GATEWAY_OPEN_DEMO", "true")
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")
    assert main(["gateway", "--host", "0.0.0.0", "--port", "0"]) == 3
    assert "which others can reach" in capsys.readouterr().err


def test_the_process_lives_without_a_broker_says_so_and_ends_in_order(folder: Path) -> None:
    env = os.environ | {"EO_DATA_DIR": str(folder), "KAFKA_BOOTSTRAP": "127.0.0.1:1", "EO_GATEWAY_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "agents", "gateway", "--json"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]
        note = read_json(folder / "run" / "gateway.json")
        assert note is not None and (note["address"], note["pid"], note["role"]) == (address, process.pid, "gateway")
        seen = answered(f"{address}/health")
        assert seen.status_code == 503 and seen.json()["live"] is True
        assert seen.json()["dependencies"]["kafka"]["ok"] is False
        assert answered(f"{address}/v1/nodes").status_code == 401
        # Prometheus has no key of the API: the address that it finds by itself answers without one.
        (target,) = json.loads((folder / "run" / "targets" / "gateway.json").read_text())[0]["targets"]
        metrics = answered(f"http://{target}/metrics")
        assert metrics.status_code == 200 and target.startswith("127.0.0.1:")
        assert 'eo_process_cpu_seconds_total{role="gateway"}' in metrics.text
        assert "\neo_gateway_sample_age_seconds " not in metrics.text  # nothing was heard: no sample, not NaN
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
        if process.stdout is not None:
            process.stdout.close()
    assert code == 0
    assert not (folder / "run" / "gateway.json").exists()
    assert not (folder / "run" / "targets" / "gateway.json").exists()  # else Prometheus would tell of a dead process


def answered(url: str) -> httpx2.Response:
    """The answer, as soon as the server takes requests."""
    wait = threading.Event()
    for _ in range(200):
        try:
            return httpx2.get(url, timeout=5)
        except httpx2.TransportError:
            wait.wait(0.05)
    raise AssertionError(f"{url} did not answer")
