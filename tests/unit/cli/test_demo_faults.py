"""Faults, short rules and the webhook test of a demo: the texts, the bounds, and what the summary counts."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from agents.cli import demo_receiver, demo_report, demo_rules
from agents.cli.demo_fault import Planned, parse, schedule
from agents.cli.main import main
from agents.cli.stack import Plan, Stack
from agents.fleet import grid
from agents.fleet import registers as fleet_registers
from agents.fleet.faults import FaultFile
from streams.contract.codec import encode
from streams.contract.layout import Layout
from streams.contract.records import Alert
from streams.jobs import alerts_rules
from streams.sinks.receivers import Receivers


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A data folder in which a fleet seems to run."""
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    layout = Layout(tmp_path)
    fleet_registers.create(layout.fleet, cluster="demo", nodes=3, gpus_per_node=8)
    layout.run.mkdir()
    (layout.run / "fleet.json").write_text(json.dumps({"pid": os.getpid()}))
    return layout


# --- faults ---


def test_a_fault_is_written_listed_and_cleared(fleet: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "fault", "slow-link", "--for", "30s"]) == 0
    said = capsys.readouterr().out
    assert "SIMULATED fault slow-link: a bad link" in said and "alert: performance_degradation" in said
    assert main(["demo", "fault", "dirty-grid", "--json"]) == 0
    [value] = json.loads(capsys.readouterr().out)
    assert (value["state"], value["end_ns"], value["simulated"]) == ("on", None, True)
    assert main(["demo", "faults", "--json"]) == 0
    states = {one["fault"]: one["state"] for one in json.loads(capsys.readouterr().out)}
    assert states["slow-link"] == states["dirty-grid"] == "on" and states["hungry-load"] == "-"
    assert main(["demo", "fault", "dirty-grid", "--clear"]) == 0
    assert capsys.readouterr().out == "Ended: dirty-grid.\n"
    assert main(["demo", "fault", "--clear"]) == 0
    assert capsys.readouterr().out == "Ended: slow-link.\n"
    assert main(["demo", "fault", "--clear"]) == 0
    assert capsys.readouterr().out == "No fault was on.\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (
            ["fault", "fire"],
            2,
            "there is no fault 'fire'; there are: hungry-load, empty-batch, dirty-grid",
        ),
        (
            ["fault", "hungry-load", "--node", "gpu-7"],
            2,
            "'gpu-7' is no node of this fleet; it has sim-001 to",
        ),
        (["faulty"], 2, "'faulty' is no part of a demo; `eo demo fault NAME` starts a fault."),
        (["--for", "30s"], 2, "--for, --node and --clear belong to `eo demo fault NAME`; a demo takes --fault"),
        (["--fault", "fire@3"], 2, "there is no fault 'fire'"),
        (["--fault", "slow-link@soon"], 2, "'slow-link@soon' is not NAME[@AFTER_S][+FOR_S]; write for example"),
        (["--fault", "slow-link+0"], 2, "'slow-link+0' lasts 0 s; give seconds above 0"),
    ],
)
def test_what_is_refused(
    fleet: Layout, words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *words]) == code
    assert text in capsys.readouterr().err
    assert FaultFile(fleet.fleet).read() == []


def test_a_wrong_fault_in_the_environment_is_refused_before_anything_starts(
    fleet: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEMO_FAULTS", "slow-link@5 fire")
    assert main(["demo"]) == 2
    assert "there is no fault 'fire'" in capsys.readouterr().err


@pytest.mark.parametrize("note", [None, "{}", json.dumps({"pid": 2**22 + 1})])
def test_without_a_living_fleet_there_is_nobody_to_fault(
    fleet: Layout, note: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (fleet.run / "fleet.json").unlink() if note is None else (fleet.run / "fleet.json").write_text(note)
    assert main(["demo", "fault", "slow-link"]) == 3
    assert "no simulated fleet runs in" in capsys.readouterr().err
    assert FaultFile(fleet.fleet).read() == []


def test_a_damaged_file_of_faults_is_said(fleet: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    FaultFile(fleet.fleet).path.write_text("{")
    assert main(["demo", "fault", "slow-link"]) == 1
    assert "remove it to end all faults." in capsys.readouterr().err


def test_a_planned_fault_counts_from_the_first_row(tmp_path: Path) -> None:
    assert parse("dirty-grid") == Planned("dirty-grid")
    planned = [parse("slow-link@20s+30"), parse("hungry-load+1.5"), parse("dead-agents@7")]
    schedule(Layout(tmp_path), planned, 1_000_000_000)
    found = [(one.name, one.start_ns, one.end_ns) for one in FaultFile(tmp_path / "fleet").read()]
    assert found == [
        ("slow-link", 21_000_000_000, 51_000_000_000),
        ("hungry-load", 1_000_000_000, 2_500_000_000),
        ("dead-agents", 8_000_000_000, 0),
    ]


# --- rules ---


def test_the_demo_s_rules_are_the_shipped_ones_with_other_numbers(tmp_path: Path) -> None:
    folder = demo_rules.write(tmp_path, gpus=32)
    path = grid.write(tmp_path / "fleet", grid.text())
    ours = alerts_rules.load(folder, location=grid.LOCATION, factor_file=path).rules
    shipped = alerts_rules.load(location=grid.LOCATION, factor_file=path)
    assert ours.keys() == shipped.rules.keys() | {"carbon_budget"}
    for name, rule in shipped.rules.items():
        assert (rule.kind, rule.severity, rule.runbook, rule.sql) == tuple(
            getattr(ours[name], field) for field in ("kind", "severity", "runbook", "sql")
        )
    changed = {name for name, rule in ours.items() if rule != shipped.rules.get(name)}
    assert changed == set(demo_rules.changes())


def test_a_sound_fleet_is_within_the_budget_at_full_power_and_a_dirty_grid_is_not() -> None:
    budget_g = demo_rules.budget_g(100, 20.0)
    at_limit_g = 100 * 0.7 * 20.0 / 3600.0 * grid.CLEAN_G_PER_KWH
    assert budget_g == pytest.approx(at_limit_g)
    idle_share = 0.15  # even a fleet that hardly works passes it on a grid ten times as dirty
    assert at_limit_g * idle_share * grid.DIRTY_G_PER_KWH / grid.CLEAN_G_PER_KWH > budget_g


def test_who_has_set_rules_or_factors_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    plain = Stack(Layout(tmp_path / "a"), Plan(nodes=2), say=said.append)
    assert plain._alerts() == {} and not (tmp_path / "a").exists(), "a bench runs what ships"
    plan = Plan(nodes=2, short_alerts=True)
    stack = Stack(Layout(tmp_path / "b"), plan, say=said.append)
    assert stack._alerts().keys() == {"EO_ALERT_RULES_DIR", "EO_LOCATION", "EO_CARBON_FACTORS"}
    assert said == [
        "alert rules have a demo's windows: high_energy 10 s, low_efficiency 20 s, carbon_budget 20 s, "
        "agent_silent 12 s, performance_degradation 10 s, restore_happened 30 s"
    ]
    monkeypatch.setenv("EO_ALERT_RULES_DIR", "/mine")
    monkeypatch.setenv("EO_LOCATION", "FR")
    assert stack._alerts() == {}
    assert said[1:] == [
        "alert rules: EO_ALERT_RULES_DIR is yours, so windows are not cut for a demo",
        "carbon: EO_LOCATION or EO_CARBON_FACTORS is yours, so the fault dirty-grid reaches no alert",
    ]


# --- the webhook test ---


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[demo_receiver.DemoReceiver]:
    monkeypatch.delenv("EO_WEBHOOK_FILE", raising=False)
    one = demo_receiver.DemoReceiver(Layout(tmp_path))
    yield one
    one.close()


def test_the_webhook_test_is_delivered_and_verified_and_taken_out_again(
    receiver: demo_receiver.DemoReceiver, tmp_path: Path
) -> None:
    told = receiver.test("demo")
    assert told.startswith("webhook test: delivered in ") and told.endswith(" ms, signature verified")
    book = Receivers(tmp_path / "deliver" / "webhooks.json")
    assert book.get("demo").allow_hosts == ("127.0.0.1",) and book.get("demo").allow_ports == (receiver.port,)
    receiver.close()
    assert book.all() == [] and list((tmp_path / "deliver" / "secrets").iterdir()) == []
    again = demo_receiver.DemoReceiver(Layout(tmp_path))
    assert "signature verified" in again.test("demo"), "a second demo of the folder registers anew"
    again.close()


def test_a_wrong_signature_is_not_called_verified(
    receiver: demo_receiver.DemoReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_receiver, "verified", lambda *_: False)
    assert receiver.test("demo").startswith("webhook test: not delivered (401) after ")
    assert (receiver.verified, receiver.refused) == (0, 1)


def test_receivers_of_yours_are_left_alone(
    receiver: demo_receiver.DemoReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EO_WEBHOOK_FILE", str(tmp_path / "mine.json"))
    assert receiver.test("demo").startswith("webhook test: left out, because EO_WEBHOOK_FILE")
    assert not (tmp_path / "mine.json").exists() and not (tmp_path / "deliver").exists()


def test_the_receiver_s_own_check_agrees_with_the_specification_s_library() -> None:
    from datetime import UTC, datetime

    secret, body, now = "whsec_" + "QUJD" * 8, b'{"a":1}', time.time()
    signed = Webhook(secret).sign("msg_1", datetime.fromtimestamp(now, UTC), body.decode())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(now)), "webhook-signature": f"v1,AAAA {signed}"}
    assert demo_receiver.verified(body, headers, secret, now)
    for change in ({"webhook-id": "msg_2"}, {"webhook-timestamp": "x"}, {"webhook-signature": ""}):
        assert not demo_receiver.verified(body, headers | change, secret, now)
    assert not demo_receiver.verified(body + b" ", headers, secret, now)
    assert not demo_receiver.verified(body, headers, secret, now + 400.0)
    assert not demo_receiver.verified(body, {}, secret, now)


@pytest.mark.parametrize(("headers", "status"), [({"content-length": "9999999"}, 413), ({"content-length": "2"}, 401)])
def test_a_stranger_s_message_is_refused(
    receiver: demo_receiver.DemoReceiver, headers: dict[str, str], status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
    connection.putrequest("POST", "/")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(b"{}")
    assert connection.getresponse().status == status
    connection.close()


# --- the summary ---


def ack(node: str, seq: int, status: str, *, number: int, capper: str = "c1", event: str = "command") -> Any:
    told = {"node": node, "event": event, "epoch": 1, "seq": seq, "gpu": {"status": [status, status]}}
    return demo_report._Acks(
        **{**told, "gpu": demo_report._AckStatuses([status, status]), "ack_seq": number, "capper_id": capper}
    )


def test_each_envelope_counts_once_and_the_parts_add_up() -> None:
    found = demo_report.Commands(sent={("n1", "1", seq) for seq in range(1, 6)})
    found.answer(ack("n1", 1, "applied", number=1))
    found.answer(ack("n1", 1, "applied", number=1))  # the spool sent it twice
    found.answer(ack("n1", 2, "clamped", number=2))
    found.answer(ack("n1", 2, "refused", number=1, capper="c2"))  # read again after a restart
    found.answer(ack("n1", 3, "refused", number=2, capper="c2"))
    found.answer(ack("n1", 4, "recommended", number=3, capper="c2"))
    found.answer(ack("n1", 99, "refused", number=4, capper="c2"))  # to a command that nobody of ours sent
    found.answer(ack("n1", 0, "restored", number=5, capper="c2", event="restore"))
    facts = found.facts()
    assert facts == {
        "commands": 5, "applied": 2, "recommended": 1, "refused": 1, "unanswered": 1, "answered_again": 1,
        "restored": 2,
    }  # fmt: skip
    assert demo_report._commands(facts) == (
        "5 envelopes: 2 applied, 1 refused, 1 recommended, 1 unanswered; 1 answered again after a restart"
    )


def test_alerts_of_the_end_are_counted_apart() -> None:
    def told(identity: str, state: str, ts_ns: int, rule: str = "high_energy") -> bytes:
        one = Alert(
            cluster="demo", node="n1", alert_id=identity, rule=rule, severity="info", state=state, ts_ns=ts_ns,
            summary="s", evidence={}, runbook="r",
        )  # type: ignore[arg-type]  # fmt: skip
        return encode(one)

    values = [
        told("a", "firing", 10), told("a", "firing", 10), told("b", "firing", 20, "agent_silent"),
        told("a", "resolved", 150), told("c", "firing", 120, "agent_silent"), told("c", "resolved", 130), None,
    ]  # fmt: skip
    found = demo_report.count_alerts(values, 100)
    by_rule = {"agent_silent": 1, "high_energy": 1}
    assert found == {"alerts": 2, "alerts_firing": 1, "alerts_by_rule": by_rule, "alerts_of_the_end": 1}
    assert demo_report._alerts(found) == (
        "2 fired (agent_silent 1, high_energy 1), 1 still firing; 1 more when the nodes were ended; "
        "eo alerts list --all"
    )
    assert demo_report._alerts(demo_report.count_alerts([])) == "0 fired; eo demo faults says how to start one"
