"""The offline store on an archive written by the archive's own code: history, choice of files, refusals."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from streams.store.errors import NoFeatures, StoreError, UnknownFeature
from streams.store.offline import OfflineStore
from tests.unit.store.makers import T0, S, archive, features

POWER = "power_w_mean_60s"


@pytest.fixture
def filled(tmp_path: Path) -> OfflineStore:
    records = [features(seq, {POWER: (100.0 + seq, None), "new_w": (1.0, 2.0)}) for seq in (0, 1, 2, 3599, 3600, 3601)]
    archive(tmp_path, records)
    return OfflineStore(tmp_path)


def test_history_is_oldest_first_with_unknown_as_none(filled: OfflineStore) -> None:
    rows = filled.history("GPU-a", POWER)
    assert [row.value for row in rows] == [100.0, 101.0, 102.0, 3699.0, 3700.0, 3701.0]
    assert (rows[0].window_end_ns, rows[0].emitted_ns - T0, rows[0].quality, rows[0].node) == (
        T0,
        50_000_000,
        "simulated",
        "n1",
    )
    assert {row.value for row in filled.history("GPU-b", POWER)} == {None}


def test_history_is_bounded_by_time_on_both_sides_and_by_count(filled: OfflineStore) -> None:
    inside = filled.history("GPU-a", POWER, start_ns=T0 + S, end_ns=T0 + 3600 * S)
    assert [row.value for row in inside] == [101.0, 102.0, 3699.0, 3700.0]
    assert [row.value for row in filled.history("GPU-a", POWER, limit=2)] == [3700.0, 3701.0]


def test_only_the_hours_asked_for_are_read(filled: OfflineStore) -> None:
    assert len(filled.files()) == 2
    assert [path.parent.name for path in filled.files(start_ns=T0 + 3600 * S)] == ["hour=01"]
    assert [path.parent.name for path in filled.files(end_ns=T0 + 3599 * S)] == ["hour=00"]
    assert filled.files(start_ns=T0 + 7200 * S) == []


def test_rows_that_were_sent_twice_count_once(tmp_path: Path) -> None:
    once = [features(seq, {POWER: (1.0, 2.0)}) for seq in range(3)]
    archive(tmp_path, once)
    archive(tmp_path, once, first_offset=3)
    assert len(OfflineStore(tmp_path).history("GPU-a", POWER)) == 3


def test_features_and_gpus_are_listed_from_the_files(filled: OfflineStore) -> None:
    assert {POWER, "new_w"} <= set(filled.features())
    assert "energy_mj" not in filled.features()
    assert "offset" not in filled.features()
    assert filled.gpus() == ("GPU-a", "GPU-b")


def test_an_older_file_without_the_feature_gives_none(tmp_path: Path) -> None:
    archive(tmp_path, [features(0, {POWER: (1.0, 2.0)})])
    archive(tmp_path, [features(1, {POWER: (1.0, 2.0), "new_w": (5.0, 6.0)})], first_offset=1)
    assert [row.value for row in OfflineStore(tmp_path).history("GPU-a", "new_w")] == [None, 5.0]


def test_unknown_feature_names_those_that_are_there(filled: OfflineStore) -> None:
    with pytest.raises(UnknownFeature, match=rf"'power' is not in the archive, which has .*{POWER}"):
        filled.history("GPU-a", "power")


def test_a_feature_name_is_data_not_sql(filled: OfflineStore) -> None:
    with pytest.raises(UnknownFeature):
        filled.history("GPU-a", 'x" FROM y; DROP TABLE z --')


def test_empty_archive_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(NoFeatures, match="has no features; run `eo worker`"):
        OfflineStore(tmp_path).history("GPU-a", POWER)
    with pytest.raises(NoFeatures):
        OfflineStore(tmp_path).gpus()
    archive(tmp_path, [features(0, {POWER: (1.0, 2.0)})])
    with pytest.raises(NoFeatures, match="in that time"):
        OfflineStore(tmp_path).history("GPU-a", POWER, start_ns=T0 + 7200 * S)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    archive(tmp_path, [features(0, {POWER: (1.0, 2.0)})])
    bad = OfflineStore(tmp_path).files()[0].with_name("p0-9-9.parquet")
    bad.write_bytes(b"PAR1 not really")
    with pytest.raises(StoreError, match=r"p0-9-9\.parquet"):
        OfflineStore(tmp_path).history("GPU-a", POWER)


@pytest.mark.parametrize(
    ("entities", "words"),
    [
        (pa.table({"gpu_uuid": ["GPU-a"]}), "need a ts_ns"),
        (pa.table({"ts_ns": [T0]}), "lack gpu_uuid"),
        (pa.table({"gpu_uuid": ["GPU-a"], "ts_ns": pa.array([None], pa.int64())}), "in every row"),
        (pa.table({"gpu_uuid": pa.array([], pa.string()), "ts_ns": pa.array([], pa.int64())}), "at least one row"),
        (pa.table({"gpu_uuid": ["GPU-a"], "ts_ns": [T0], POWER: [1.0]}), f"already have a column {POWER}"),
    ],
)
def test_entity_rows_that_cannot_be_joined_are_refused(filled: OfflineStore, entities: pa.Table, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        filled.point_in_time(entities, {POWER: 60.0})
