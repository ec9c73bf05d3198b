"""`eo alerts` and `eo webhook` as a user calls them: what they print, what they write, what they refuse."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from agents.cli import alerts as alerts_verb
from agents.cli.kafka_read import Message, Reader
from agents.cli.main import main
from streams.contract import codec
from streams.sinks.outbox import Attempt, Outbox
from streams.sinks.receivers import Receivers
from tests.unit.sinks.deliver_support import T0_S, alert, receiver

URL = "https://hooks.example/T0/secret-path"


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EO_CLUSTER", "c1")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert main(list(args)) == code
    found = capsys.readouterr()
    return found.out if code == 0 else found.err or found.out


def as_json(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    assert main([*args, "--json"]) == code
    return json.loads(capsys.readouterr().out)


# --- eo webhook ---


def test_a_secret_is_shown_once_and_the_address_never_whole(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    said = told(capsys, "webhook", "add", URL, "--name", "ops")
    secret = next(word for word in said.split() if word.startswith("whsec_"))
    assert "Its secret, shown once:" in said and "secret-path" not in said
    later = told(capsys, "webhook", "list") + told(capsys, "webhook", "list", "--json")
    assert secret not in later and "secret-path" not in later and "https://hooks.example/..." in later
    assert Receivers(data_dir / "deliver" / "webhooks.json").get("ops").url == URL


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("add",), 2, "needs the receiver's URL"),
        (("add", "ftp://hooks.example/"), 3, "scheme 'ftp' is not allowed; use https or http"),
        (("add", "http://127.0.0.1/"), 3, "127.0.0.1 is loopback, private or reserved"),
        (("add", "http://169.254.169.254/", "--allow-host", "169.254.169.254"), 3, "or a metadata service"),
        (("add", "https://hooks.example:8443/"), 3, "add it with --allow-port 8443"),
        (("add", URL, "--name", "No Name"), 1, "is no name"),
        (("add", URL, "--secret-file", "/nonexistent"), 1, "cannot be read"),
        (("test", "ops"), 1, "there is no receiver 'ops'; there are: none"),
        (("remove", "ops"), 1, "there is no receiver 'ops'"),
        (("rotate", "ops"), 1, "there is no receiver 'ops'"),
        (("replay",), 2, "name the deliveries to send again"),
        (("replay", "17"), 1, "there is no delivery 17; `eo webhook deliveries` lists them"),
        (("replay", "x"), 2, "write numbers as `eo webhook deliveries` shows them"),
        (("deliveries", "-n", "0"), 2, "-n 0 must be >= 1"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_step(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, text: str
) -> None:
    assert text in told(capsys, "webhook", *args, code=code)


def test_dry_runs_write_nothing(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    told(capsys, "webhook", "add", URL, "--name", "ops", "--dry-run")
    assert not (data_dir / "deliver" / "webhooks.json").exists()
    told(capsys, "webhook", "add", URL, "--name", "ops")
    before = (data_dir / "deliver" / "webhooks.json").read_bytes()
    for args in (("remove", "ops"), ("rotate", "ops"), ("rotate", "ops", "--finish"), ("test", "ops")):
        told(capsys, "webhook", *args, "--dry-run")
    assert (data_dir / "deliver" / "webhooks.json").read_bytes() == before


def test_without_a_terminal_a_removal_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(capsys, "webhook", "add", URL, "--name", "ops")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert "pass --yes" in told(capsys, "webhook", "remove", "ops", code=3)
    told(capsys, "webhook", "remove", "ops", "--yes")
    assert as_json(capsys, "webhook", "list") == []


class _Keep(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((body, dict(self.headers.items())))  # type: ignore[attr-defined]
        self.send_response(self.server.answer)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    one = HTTPServer(("127.0.0.1", 0), _Keep)
    one.got, one.answer = [], 200  # type: ignore[attr-defined]
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield one
    one.shutdown()
    one.server_close()


def test_a_test_message_really_arrives_and_its_failure_is_an_exit_code(
    capsys: pytest.CaptureFixture[str], server: HTTPServer
) -> None:
    port = str(server.server_address[1])
    added = as_json(
        capsys, "webhook", "add", f"http://127.0.0.1:{port}/x", "--name", "ops", "--allow-host", "127.0.0.1",
        "--allow-port", port,
    )  # fmt: skip
    assert as_json(capsys, "webhook", "test", "ops")["taken"] is True
    body, headers = server.got[0]  # type: ignore[attr-defined]
    value = Webhook(added["secret"]).verify(body.decode(), {name.lower(): text for name, text in headers.items()})
    assert value["data"]["rule"] == "webhook_test" and value["data"]["quality"] == "simulated"
    server.answer = 500  # type: ignore[attr-defined]
    assert as_json(capsys, "webhook", "test", "ops", code=1)["status"] == 500


def test_deliveries_show_their_tries_and_a_dead_one_goes_again(
    capsys: pytest.CaptureFixture[str], data_dir: Path
) -> None:
    box = Outbox(data_dir / "deliver" / "outbox.sqlite")
    box.take([alert("n1"), alert("n2")], [receiver()], [], now_s=T0_S)
    first = box.next("ops", T0_S)
    assert first is not None
    box.record(first, Attempt(T0_S, 503, "busy", 12.0), status="dead", next_s=T0_S, ended_s=T0_S + 1)
    [dead] = as_json(capsys, "webhook", "deliveries", "--status", "dead")
    assert (dead["id"], dead["attempts"], dead["rule"], dead["state"]) == (first.id, 1, "high_energy", "firing")
    assert "busy" in told(capsys, "webhook", "deliveries", str(first.id))
    assert main(["webhook", "replay", "--dead", "--yes"]) == 1
    assert "receiver ops is gone, so nobody would send it" in capsys.readouterr().err
    Receivers(data_dir / "deliver" / "webhooks.json").add(receiver())
    assert as_json(capsys, "webhook", "replay", "--dead", "--dry-run")["would"] == 1
    assert as_json(capsys, "webhook", "replay", "--dead", "--yes")["replayed"] == 1
    assert box.counts() == {"pending": 2}
    again = box.next("ops", T0_S * 2)
    assert again is not None and again.webhook_id == first.webhook_id
    box.close()


def test_a_rotation_shows_the_new_secret_once_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "webhook", "add", URL, "--name", "ops")
    assert "New secret of ops, shown once: whsec_" in told(capsys, "webhook", "rotate", "ops")
    assert "has two live secrets already" in told(capsys, "webhook", "rotate", "ops", code=1)
    told(capsys, "webhook", "rotate", "ops", "--finish", "--yes")
    assert as_json(capsys, "webhook", "list")[0]["secrets"] == 1


# --- eo alerts ---


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """What the alert topic holds."""
    held: list[Message] = []
    monkeypatch.setattr(Reader, "__init__", lambda self, bootstrap, name: None)
    monkeypatch.setattr(Reader, "__exit__", lambda self, *_: None)
    monkeypatch.setattr(Reader, "last", lambda self, count: held)
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")
    return held


def put(topic: list[Message], *records: object) -> None:
    for record in records:
        value = record if isinstance(record, bytes) else codec.encode(record)  # type: ignore[arg-type]
        topic.append(Message("energy.alert.v1", 0, len(topic), 0, None, value, ()))


def test_the_list_shows_what_fires_with_evidence_and_the_way_back(
    capsys: pytest.CaptureFixture[str], topic: list[Message]
) -> None:
    put(topic, alert("n1"), alert("n2"), alert("n2", "resolved"), b"{", alert("n3", cluster="other"))
    said = told(capsys, "alerts", "list")
    assert "FIRING high_energy (warning), n1\n  n1 draws 4,000 W" in said and "n2" not in said and "n3" not in said
    for part in ("look:    eo sql power_by_node_hour", "undo:    nothing was changed", "docs/runbooks/high_energy.md"):
        assert part in said
    assert {one["labels"]["subject"] for one in as_json(capsys, "alerts", "list", "--all")} == {"n1", "n2"}
    assert as_json(capsys, "alerts", "list", "--node", "x*") == []


def test_a_silence_needs_an_end_and_something_to_mute(capsys: pytest.CaptureFixture[str]) -> None:
    assert "pass --for 2h, at most 30d" in told(capsys, "alerts", "silence", "--rule", "x", code=2)
    said = told(capsys, "alerts", "silence", "--for", "1h", "--yes", code=1)
    assert "one that mutes everything is refused" in said


def test_a_silence_is_listed_shown_at_its_alerts_and_ended(
    capsys: pytest.CaptureFixture[str], topic: list[Message], data_dir: Path
) -> None:
    told(capsys, "alerts", "silence", "--node", "n*", "--for", "1h", "--dry-run")
    assert as_json(capsys, "alerts", "silences") == []
    made = as_json(capsys, "alerts", "silence", "--node", "n*", "--for", "1h", "--reason", "update", "--yes")
    assert made["written"] and made["until_ns"] - made["created_ns"] == 3600 * 10**9
    put(topic, alert("n1"), alert("m1"))
    found = {one["node"]: one["silenced_by"] for one in as_json(capsys, "alerts", "list")}
    assert found == {"n1": [made["id"]], "m1": []}
    assert "There is none" in told(capsys, "alerts", "unsilence", "zzz", "--dry-run", code=1)
    told(capsys, "alerts", "unsilence", made["id"])
    [ended] = as_json(capsys, "alerts", "silences")
    assert ended["live"] is False and (data_dir / "deliver" / "silences.json").stat().st_mode & 0o77 == 0
    assert "there is no silence 'zzz'" in told(capsys, "alerts", "unsilence", "zzz", code=1)


def test_the_rules_say_why_one_is_silent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = told(capsys, "alerts", "rules")
    assert "no location, no CO2 number: set EO_LOCATION and EO_CARBON_FACTORS" in said
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "mine.toml").write_text('kind = "pwer"\n')
    monkeypatch.setenv("EO_ALERT_RULES_DIR", str(tmp_path / "rules"))
    assert "kind is 'pwer'; did you mean 'power'?" in told(capsys, "alerts", "rules", code=1)


def test_the_newest_word_of_an_alert_counts_whatever_the_order(topic: list[Message]) -> None:
    put(topic, alert("n1", "resolved"), alert("n1", "firing"))
    assert [one.state for one in alerts_verb.newest("x", "c1")] == ["resolved"], "a firing read again is no new one"
