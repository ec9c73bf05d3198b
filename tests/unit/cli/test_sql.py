"""`eo sql`: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from agents.cli.main import main
from tests.fakes import archive as fake


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    return fake.build(tmp_path / "archive")


def test_a_named_query_in_three_forms(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "loop_time", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["loop_ms_p50"] == 200.0
    assert main(["sql", "refusals_by_reason", "--csv"]) == 0
    [parsed] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (parsed["reason"], parsed["refusals"]) == ("rate: 1 change per 5 s", "36")
    assert main(["sql", "loop_time"]) == 0
    assert "SIMULATED: 1 of them rest on simulated samples" in capsys.readouterr().out


def test_a_wide_row_turns_on_its_side(
    archive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["sql", "savings_holdout"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["column", "row", "1"] and max(map(len, lines)) <= 80
    assert ["saving_ratio", "0.25"] in [line.split() for line in lines]


def test_free_sql_with_a_parameter_and_unknown_as_null(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT node, count(*) AS n, max(mem_temp_c) AS t FROM telemetry_node WHERE node = $n GROUP BY node"
    assert main(["sql", sql, "--param", "n=node-b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"node": "node-b", "n": 540, "t": None}]
    assert main(["sql", "SELECT 'nan'::DOUBLE AS x, [1, NULL] AS y, MAP {'a': 1.5} AS z", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"x": None, "y": [1, None], "z": {"a": 1.5}}]


def test_rows_are_limited_and_it_is_said(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "SELECT uuid FROM telemetry_node", "--limit-rows", "3", "--csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "only the first 3 rows are shown; --limit-rows shows more" in err


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO 'x.csv'",
        "CREATE TABLE x (a INT)",
        "DROP VIEW telemetry_node",
        "SET threads = 1",
        "PRAGMA database_list",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "INSERT INTO telemetry_node VALUES (1)",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "explain (format json) CREATE TABLE x (a INT)",
        "CALL pragma_version()",
        "SELECT 1; SELECT 2",
        "WITH a AS (INSERT INTO internal.telemetry_node_columns(node) SELECT node FROM telemetry_node RETURNING node) "
        "SELECT * FROM a",
        "SELECT * FROM read_csv('/etc/hostname')",
    ],
)
def test_whatever_is_not_reading_is_refused_with_three(
    archive: Path, capsys: pytest.CaptureFixture[str], sql: str
) -> None:
    before = sorted(archive.rglob("*"))
    assert main(["sql", sql]) == 3
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "only reads the archive" in err or "exactly one" in err or "reads the archive and nothing else" in err
    assert sorted(archive.rglob("*")) == before


@pytest.mark.parametrize(
    "sql",
    [
        "WITH a AS (SELECT 1 AS x) SELECT * FROM a",
        "EXPLAIN SELECT * FROM gpu_minute",
        "EXPLAIN ANALYZE SELECT count(*) FROM telemetry_node",
        "DESCRIBE telemetry_node",
        "SHOW TABLES",
        "SUMMARIZE power_applied",
        "FROM operator_intent",
        "VALUES (1)",
    ],
)
def test_reading_statements_run(archive: Path, capsys: pytest.CaptureFixture[str], sql: str) -> None:
    assert main(["sql", sql, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        ([], 2, "no query was given; `eo sql --list` shows those that ship with eo"),
        (["loop_tyme"], 2, "did you mean `eo sql loop_time`?"),
        (["saving"], 2, "did you mean `eo sql savings_holdout`?"),
        (["zzz"], 2, "'zzz' is neither a query that ships with eo nor SQL; `eo sql --list` shows them"),
        (["SELEC 1"], 2, "`eo sql --schema` shows views and columns"),
        (["SELECT nope FROM telemetry_node"], 1, 'Referenced column "nope" not found'),
        (["loop_time", "--param", "hours"], 2, "--param hours is not NAME=VALUE"),
        (["loop_time", "--param", "hours=x"], 2, "hours=x is not float; hours is in h, back from the newest row"),
        (["loop_time", "--param", "days=1"], 2, "loop_time has no parameter 'days'; it takes: hours=24.0"),
        (["loop_time", "--limit-rows", "0"], 2, "--limit-rows 0 must be >= 1 and <= 10000000; leave it out"),
        (["loop_time", "--timeout-s", "nan"], 2, "--timeout-s nan must be >= 0.01 and <= 86400; leave it out"),
        *(
            (["loop_time", "--param", f"hours={value}"], 2, f"hours={value} is out of bounds: hours (h, back from the")
            for value in ("-5", "0", "nan", "inf", "1e+300")
        ),
        (["savings_holdout", "--param", "z=nan"], 2, "must be > 0 and <= 10; leave it out for 1.96"),
        (["idle_burners", "--param", "top=-1"], 2, "must be >= 1 and <= 1000000; leave it out for 50"),
        (["idle_burners", "--param", "top=1.5"], 2, "top=1.5 is not int; top is in rows, the worst first"),
        (["idle_burners", "--param", "util_max=2"], 2, "must be >= 0 and <= 1; leave it out for 0.05"),
        (["fleet_now", "--param", "minutes=0"], 2, "must be >= 1 and <= 525600; leave it out for 5"),
        (["--schema", "nope"], 2, "'nope' is not a view; the views are telemetry_node"),
        (
            ["SELECT count(*) FROM range(1000000000000) t(a) WHERE a % 7 = 3", "--timeout-s", "0.2"],
            1,
            "the query ran longer than 0.2 s; ask for less time (--param hours=1) or allow more (--timeout-s 0.8)",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    archive: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, text: str
) -> None:
    assert main(["sql", *argv]) == code
    out, err = capsys.readouterr()
    assert out == "" and text in err and len(err.splitlines()) == 1 and "Traceback" not in err


def test_no_archive_yet_is_an_empty_answer_with_a_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    assert main(["sql", "fleet_now", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == [] and "holds no rows yet; `eo demo` or `eo worker archive` fills it" in err


@pytest.mark.parametrize("fault", ["torn", "empty", "scrambled"])
def test_a_broken_file_is_named_and_the_rest_is_answered(
    archive: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    broken = next(iter(archive.glob("topic=telemetry.node/*/hour=10/*.parquet")))
    fake.spoil(broken, fault)  # type: ignore[arg-type]
    assert main(["sql", "SELECT count(power_w) AS n, min(node) AS a FROM telemetry_node", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["n"] == 90 * 7
    assert f"left out {broken}: " in err and "move it out of the archive" in err


def test_list_and_schema_explain_themselves(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--list"]) == 0
    assert "savings_holdout  [hours=24.0 z=1.96]" in capsys.readouterr().out
    assert main(["sql", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {query["name"] for query in listed} >= {"fleet_now", "loop_time"}
    assert main(["sql", "--schema"]) == 0
    assert "gpu_minute" in capsys.readouterr().out
    assert main(["sql", "--schema", "telemetry_node"]) == 0
    assert "board power, W" in capsys.readouterr().out
    assert main(["sql", "--schema", "--json"]) == 0
    assert "energy_j" in json.loads(capsys.readouterr().out)["gpu_minute"]["columns"]
