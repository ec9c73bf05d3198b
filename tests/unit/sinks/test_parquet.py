"""Files of the archive: whole or invisible, named by what is inside, never over another."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.contract import failpoints
from streams.sinks import parquet


def table(offsets: list[int], ts_ns: list[int] | None = None) -> pa.Table:
    return pa.table({"offset": offsets, "ts_ns": ts_ns or [0] * len(offsets)})


def test_a_file_is_named_by_partition_and_offsets_and_read_back(tmp_path: Path) -> None:
    path = parquet.write(tmp_path, "telemetry.node", 482_483, partition=3, table=table([5, 6, 9]))
    assert path.relative_to(tmp_path).as_posix() == "topic=telemetry.node/date=2025-01-15/hour=11/p3-5-9.parquet"
    assert pq.read_table(path, partitioning=None)["offset"].to_pylist() == [5, 6, 9]
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"
    assert list((tmp_path / parquet.TEMPORARY).iterdir()) == []


def test_a_taken_name_is_not_overwritten(tmp_path: Path) -> None:
    first = parquet.write(tmp_path, "alert", 0, partition=0, table=table([1]))
    second = parquet.write(tmp_path, "alert", 0, partition=0, table=table([1]))
    third = parquet.write(tmp_path, "alert", 0, partition=0, table=table([1]))
    assert [path.name for path in (first, second, third)] == [
        "p0-1-1.parquet",
        "p0-1-1-r2.parquet",
        "p0-1-1-r3.parquet",
    ]
    assert [name.last for name, _ in parquet.files_of(first.parent, 0)] == [1, 1, 1]


@pytest.mark.parametrize("name", ["archive.mid_rowgroup", "archive.before_footer", "archive.before_rename"])
def test_what_fails_before_the_rename_leaves_nothing(tmp_path: Path, name: str) -> None:
    failpoints.arm(f"{name}:raise")
    with pytest.raises(failpoints.FailpointRaised):
        parquet.write(tmp_path, "alert", 0, partition=0, table=table([1]))
    failpoints.arm("")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_whoever_says_no_before_the_rename_keeps_the_file_away(tmp_path: Path) -> None:
    def refuse() -> None:
        raise PermissionError("not yours")

    with pytest.raises(PermissionError):
        parquet.write(tmp_path, "alert", 0, partition=0, table=table([1]), before_rename=refuse)
    assert list(tmp_path.rglob("*.parquet")) == []


def test_only_temporaries_of_the_partition_and_dataset_are_removed(tmp_path: Path) -> None:
    (tmp_path / parquet.TEMPORARY).mkdir()
    for dataset, partition in (("alert", 1), ("alert", 11), ("telemetry.node", 1)):
        parquet.temporary_path(tmp_path, dataset, partition).write_bytes(b"half")
    assert parquet.remove_temporaries(tmp_path, "alert", 1) == 1
    assert len(list((tmp_path / parquet.TEMPORARY).iterdir())) == 2


def test_large_tables_are_cut_into_row_groups(tmp_path: Path) -> None:
    rows = parquet.ROW_GROUP + 10
    path = parquet.write(tmp_path, "alert", 0, partition=0, table=table(list(range(rows))))
    groups = pq.read_metadata(path)
    assert [groups.row_group(index).num_rows for index in range(groups.num_row_groups)] == [parquet.ROW_GROUP, 10]


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=30))
def test_cutting_by_hour_keeps_every_row_in_its_hour(ts_ns: list[int]) -> None:
    parts = list(parquet.by_hour(table(list(range(len(ts_ns))), ts_ns)))
    assert sorted(offset for _, part in parts for offset in part["offset"].to_pylist()) == list(range(len(ts_ns)))
    assert len({hour for hour, _ in parts}) == len(parts)
    for hour, part in parts:
        assert {ns // parquet.HOUR_NS for ns in part["ts_ns"].to_pylist()} == {hour}


@given(st.integers(0, 2_000_000))
def test_an_hour_is_found_again_in_its_folder(hour: int) -> None:
    assert parquet.hour_of(parquet.hour_folder("alert", hour)) == hour


def test_foreign_names_are_no_files_of_ours() -> None:
    assert parquet.FileName.parse("part-0.parquet") is None
    assert parquet.hour_of(Path("date=yesterday/hour=1")) is None
