"""Opening the archive: empty, broken, locked, old."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.contract.layout import Layout
from streams.sinks import archive_files, archive_reader, schemas, sql_files
from tests.fakes import archive as fake


def test_an_empty_archive_has_every_view_with_every_column(tmp_path: Path) -> None:
    connection = archive_reader.open_archive(Layout(tmp_path))
    for dataset in schemas.DATASETS:
        view = archive_reader.view_name(dataset.name)
        described = connection.execute(f"DESCRIBE {view}").fetchall()
        assert [row[0] for row in described] == [name for name, _, _ in dataset.columns]
        assert connection.execute(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]
    assert {row[0] for row in connection.execute("SHOW TABLES").fetchall()} == set(archive_reader.view_names())


def test_headers_of_views_and_rollups_name_their_columns(tmp_path: Path) -> None:
    connection = archive_reader.open_archive(Layout(tmp_path))
    for kind in ("rollups", "views"):
        for view in sql_files.load(kind).values():
            described = connection.execute(f"DESCRIBE {view.name}").fetchall()
            assert [row[0] for row in described] == [name for name, _ in view.columns], view.name


def test_now_is_the_newest_row(tmp_path: Path) -> None:
    opened = archive_reader.open_reader(fake.build(tmp_path / "archive"))
    assert opened.newest == datetime(2025, 1, 15, 11, 1, 29, tzinfo=UTC)
    assert opened.left_out == ()
    rows = opened.connection.execute("SELECT count(*) FROM host_reading WHERE ts > since(1 / 60.0)").fetchall()
    assert rows == [(60 * 2,)]


@pytest.mark.parametrize(("fault", "reason"), [("torn", "no Parquet footer"), ("empty", "0 bytes")])
def test_a_broken_file_is_left_out_and_named(tmp_path: Path, fault: str, reason: str) -> None:
    archive = fake.build(tmp_path / "archive")
    broken = next(iter(archive.glob("topic=telemetry.node/*/hour=10/*.parquet")))
    fake.spoil(broken, fault)  # type: ignore[arg-type]
    opened = archive_reader.open_reader(archive)
    [(path, why)] = opened.left_out
    assert path == broken and why.startswith(reason)
    assert opened.connection.execute("SELECT count(*) FROM telemetry_node").fetchall() == [(90 * 7,)]


def test_the_connection_reaches_nothing_outside_the_archive(tmp_path: Path) -> None:
    archive = fake.build(tmp_path / "archive")
    outside = tmp_path / "secret.csv"
    outside.write_text("a\n1\n")
    connection = archive_reader.open_reader(archive).connection
    for sql in (
        f"SELECT * FROM read_csv('{outside}')",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/other.db'",
        "INSTALL httpfs",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(sql)
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "other.db").exists()


def test_files_of_an_older_release_lack_columns_and_give_nulls(tmp_path: Path) -> None:
    archive = fake.build(tmp_path / "archive")
    path = next(iter(archive.glob("topic=telemetry.node/*/hour=10/*.parquet")))
    table = pq.ParquetFile(path).read()
    pq.write_table(table.drop_columns(["workload", "mem_temp_c"]), path)
    connection = archive_reader.open_reader(archive).connection
    found = connection.execute(
        "SELECT count(*), count(workload), count(power_w) FROM telemetry_node WHERE ts < '2025-01-15 11:00:00+00'"
    ).fetchall()
    assert found == [(90 * 7, 0, 90 * 7)]


def test_a_column_of_a_newer_release_is_there_to_be_asked(tmp_path: Path) -> None:
    archive = fake.build(tmp_path / "archive")
    path = next(iter(archive.glob("topic=features.gpu/*/hour=11/*.parquet")))
    table = pq.ParquetFile(path).read()
    pq.write_table(table.append_column("new_w", pa.array([1.0] * table.num_rows)), path)
    connection = archive_reader.open_reader(archive).connection
    assert connection.execute("SELECT sum(new_w) FROM features_gpu").fetchall() == [(90 * 7.0,)]


def test_only_the_views_asked_for_are_made(tmp_path: Path) -> None:
    archive = fake.build(tmp_path / "archive")
    connection = archive_reader.open_reader(archive, only=["engine_arm"]).connection
    made = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    assert made == {"engine_arm", "gpu_arm", "gpu_holdout", "gpu_minute", "command_minute", "power_desired"}


def test_a_path_with_a_quote_is_no_end_of_a_string(tmp_path: Path) -> None:
    archive = fake.build(tmp_path / "o'archive")
    connection = archive_reader.open_reader(archive).connection
    assert connection.execute("SELECT count(*) FROM alert").fetchall() == [(1,)]


def test_a_footer_longer_than_the_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1" + b"\xff\xff\xff\x00" + b"PAR1")
    assert archive_files.footer_fault(path) == "its footer is longer than the file"
    assert "No such file" in (archive_files.footer_fault(tmp_path / "gone") or "")
