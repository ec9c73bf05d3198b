"""The queries on alerts, and the question that every rule hands out: each runs, and shows what it should."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.cli.sql_run import ask, named
from streams.contract.records import Alert
from streams.jobs import alerts_rules
from streams.sinks import archive_reader, sql_files
from tests.fakes import archive as fake

S = 10**9


def alert(number: int, state: str, second: int, **more: Any) -> Alert:
    """Alert `number` began in second 10."""
    values: dict[str, Any] = {
        "alert_id": f"a{number}",
        "rule": "high_energy",
        "state": state,
        "ts_ns": fake.START_NS + second * S,
        "started_ns": fake.START_NS + 10 * S,
        "window_start_ns": fake.START_NS,
        "window_end_ns": fake.START_NS + 15 * S,
        "labels": {"subject": f"node-{number}"},
    }
    return msgspec.structs.replace(fake.alert(), **{**values, **more})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    fake.write(
        tmp_path,
        [
            alert(1, "firing", 15),
            alert(1, "resolved", 40),
            alert(2, "firing", 15, severity="critical"),
            alert(2, "firing", 15, severity="critical"),  # sent again after a crash
            alert(3, "firing", 20, labels={}, gpu_uuid="GPU-a0"),
        ],
    )
    fake.write(tmp_path, [fake.intent(), fake.telemetry("node-a", 60)])
    return tmp_path


def test_what_fires_now_comes_worst_first_with_its_evidence(archive: Path) -> None:
    rows = named(archive_reader.open_reader(archive).connection, "alerts_open")
    assert [(row["alert_id"], row["severity"], row["subject"]) for row in rows] == [
        ("a2", "critical", "node-2"), ("a3", "warning", "GPU-a0")
    ]  # fmt: skip
    assert rows[0]["evidence"] == {"lag_s": 3.0} and rows[0]["firing_s"] == pytest.approx(50.0, abs=0.1)
    assert rows[0]["started"] == datetime.fromtimestamp(fake.START_NS / S + 10, UTC)


def test_the_history_has_one_row_per_firing_with_its_length(archive: Path) -> None:
    rows = {row["alert_id"]: row for row in named(archive_reader.open_reader(archive).connection, "alert_history")}
    assert set(rows) == {"a1", "a2", "a3"}
    assert (rows["a1"]["lasted_s"], rows["a1"]["window_s"], rows["a1"]["firings"]) == (30.0, 15.0, 1)
    assert (rows["a2"]["ended"], rows["a2"]["lasted_s"]) == (None, None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.build(tmp_path_factory.mktemp("archive"))


@pytest.mark.parametrize("name", sorted(path.stem for path in alerts_rules.SHIPPED.glob("*.toml")))
def test_the_question_of_every_rule_runs(whole: Path, name: str) -> None:
    """As a user pastes it behind `eo sql`: a shipped query's name, or SQL."""
    question = str(alerts_rules.read_toml(alerts_rules.SHIPPED / f"{name}.toml")["sql"])
    if re.fullmatch(r"\w+", question):
        assert question in sql_files.load("queries")
        named(archive_reader.open_reader(whole).connection, question)
    else:
        ask(whole, question, {}, limit_rows=10, timeout_s=30.0)
