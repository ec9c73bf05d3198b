"""Headers of SQL files."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cli import sql_docs
from streams.sinks import sql_files
from streams.sinks.sql_files import parse

TEXT = """-- question: What
-- is it?
-- param: hours = 24.0 > 0 <= 100 (h, how long)
-- param: name = 'x' (text, a name)
-- columns:
--   a_w: power, W,
--       and more
--   b: time
-- A note
-- of two lines.
SELECT 1 AS a_w
-- inside
, 2 AS b
"""


def test_a_header_is_read_in_full() -> None:
    file = parse("10_name", TEXT)
    assert (file.name, file.question, file.note) == ("name", "What is it?", "A note of two lines.")
    assert file.columns == (("a_w", "power, W, and more"), ("b", "time"))
    assert [(param.name, param.default, param.meaning) for param in file.params] == [
        ("hours", 24.0, "h, how long"),
        ("name", "x", "text, a name"),
    ]
    hours, name = file.params
    assert (hours.bounds, hours.range, name.range) == ((">", 0.0, 100.0), "> 0 and <= 100", "")
    assert [hours.allows(value) for value in (0, 0.1, 100, 101)] == [False, True, True, False] and name.allows("y")
    assert "SELECT 1 AS a_w" in file.sql and "question" not in file.sql


def test_a_file_without_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x\.sql: the first comment must hold"):
        parse("x", "SELECT 1")
    with pytest.raises(ValueError, match="is no parameter"):
        parse("x", "-- question: q?\n-- param: hours 24\n-- columns:\n--   a: b\nSELECT 1")


def test_the_shipped_files_begin_with_their_header() -> None:
    for path in sql_files.root().rglob("*.sql"):
        assert path.read_text().startswith("-- question: "), path


def test_at_least_the_promised_questions_ship() -> None:
    promised = {
        "power_by_node_hour", "idle_burners", "energy_by_stack", "joules_per_token", "throttled_by_us",
        "commands_and_effect", "savings_holdout", "latency_by_group", "lag_and_gaps", "anomalies_with_evidence",
        "restore_history", "data_quality_shares", "point_in_time_example", "loop_time", "refusals_by_reason",
        "fleet_now",
    }  # fmt: skip
    assert promised <= set(sql_files.load("queries"))


def test_the_document_is_current() -> None:
    document = Path(__file__).parents[3] / "docs" / "sql.md"
    assert document.read_text() == sql_docs.render(), "run: python -m agents.cli.sql_docs > docs/sql.md"


def test_rollups_name_a_dataset_and_read_only_it() -> None:
    from streams.sinks.archive_reader import rollup_dataset

    for rollup in sql_files.load("rollups").values():
        assert rollup_dataset(rollup).name.replace(".", "_") == rollup.source
        assert "source_rows" in rollup.sql and str(rollup.source) not in rollup.sql
