"""Records to tables: every field arrives in its column, unknown stays null, nothing is taken for zero."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from streams.contract import records as r
from streams.sinks import rows, schemas
from tests.fakes import archive as fake


def tables(*records: r.Record) -> dict[str, pa.Table]:
    batch = rows.Batch(3, [7 + i for i in range(len(records))], [1000] * len(records), records)
    return rows.to_tables(type(records[0]), batch)


def test_every_dataset_has_its_schema_and_every_row_its_place() -> None:
    seen: set[str] = set()
    by_type: dict[type[r.Record], list[r.Record]] = {}
    for record in fake.all_records():
        by_type.setdefault(type(record), []).append(record)
    for members in by_type.values():
        for name, table in tables(*members).items():
            seen.add(name)
            dataset = schemas.BY_NAME[name]
            assert table.schema.equals(dataset.schema), name
            assert set(table["partition"].to_pylist()) == {3}
            offsets = table["offset"].to_pylist()
            assert offsets == sorted(offsets) and offsets[0] == 7
            assert table["ts"].cast(pa.int64()).to_pylist() == [ns // 1000 for ns in table["ts_ns"].to_pylist()]
    assert seen == set(schemas.BY_NAME)


def test_columns_of_telemetry_are_those_of_the_record() -> None:
    first, second = fake.telemetry("node-a", 3), fake.telemetry("node-b", 4)
    table = tables(first, second)["telemetry.node"]
    assert first.gpu is not None and second.gpu is not None
    for name in r.GpuColumns.__struct_fields__:
        expected = [
            value for gpu in (first.gpu, second.gpu) for value in (getattr(gpu, name) or (None,) * len(gpu.uuid))
        ]
        assert table[name].to_pylist() == expected, name
    assert table["gpu_index"].to_pylist() == [0, 1, 2, 3, 0, 1, 2]
    assert table["node"].to_pylist() == ["node-a"] * 4 + ["node-b"] * 3
    assert table["engine"].to_pylist() == ["eng-1", "eng-1", "eng-2", "eng-2", "eng-3", "eng-3", None]
    assert table["stack"].to_pylist()[-2:] == [fake.STACK, None]


def test_a_missing_column_is_null_beside_one_that_is_known() -> None:
    known = fake.telemetry("node-b", 1)
    bare = msgspec.structs.replace(known, gpu=r.GpuColumns(uuid=("GPU-x",), power_w=(None,)))
    table = tables(known, bare)["telemetry.node"]
    assert table["power_w"].to_pylist() == [400.0, 400.0, 100.0, None]
    assert table["temp_c"].to_pylist() == [60.0, 60.0, 60.0, None]
    assert table["mem_temp_c"].null_count == 4


def test_a_host_without_gpus_is_a_host_row_only() -> None:
    bare = msgspec.structs.replace(
        fake.telemetry("node-a", 1), gpu=None, engines=(), host=None, domains=None, sensors=None
    )
    found = tables(bare)
    assert set(found) == {"host.reading"}
    row = found["host.reading"].to_pylist()[0]
    assert row["gpus"] == 0 and row["cpu_util_ratio"] is None and row["cgroup_path"] is None


def test_host_and_engine_keep_lists_and_histograms() -> None:
    found = tables(fake.telemetry("node-a", 5))
    host = found["host.reading"].to_pylist()[0]
    assert (host["cgroup_path"], host["cgroup_cpu_us"], host["source"]) == (["/a"], [5], ["twin"])
    engine = found["engine.reading"].to_pylist()[1]
    assert engine["engine"] == "eng-2" and engine["gpu_uuid"] == ["GPU-a2", "GPU-a3"]
    assert (engine["tbt_scale"], engine["tbt_index"], engine["tbt_count"], engine["tbt_sum_ms"]) == (
        5,
        [100],
        [10],
        100.0,
    )


def test_no_histogram_is_null_and_one_without_counts_is_an_empty_list() -> None:
    record = fake.telemetry("node-a", 5)
    first = msgspec.structs.replace(record.engines[0], tbt=None, e2e=r.Histogram(scale=6))
    found = tables(msgspec.structs.replace(record, engines=(first, record.engines[1])))["engine.reading"]
    assert found["tbt_index"].to_pylist() == [None, [100]] and found["tbt_count"].to_pylist() == [None, [10]]
    assert found["tbt_scale"].to_pylist() == [None, 5] and found["tbt_sum_ms"].to_pylist() == [None, 100.0]
    assert found["e2e_index"].to_pylist() == [[], [100]] and found["e2e_scale"].to_pylist() == [6, 5]


def test_features_become_columns_and_new_ones_are_added() -> None:
    record = fake.features("node-b", 2)
    more = msgspec.structs.replace(record, features={**record.features, "brand_new_w": (1.0, None, 3.0)})
    table = tables(record, more)["features.gpu"]
    assert table["brand_new_w"].to_pylist() == [None, None, None, 1.0, None, 3.0]
    assert table["power_w_mean_60s"].to_pylist() == [400.0, 400.0, 100.0] * 2
    assert table["j_per_token_60s"].null_count == 6


def test_a_feature_with_the_name_of_a_column_is_refused() -> None:
    record = msgspec.structs.replace(fake.features("node-b", 2), features={"engine": (1.0, 2.0, 3.0)})
    with pytest.raises(ValueError, match="'engine' has the name of an archive column; rename the feature"):
        tables(record)


def test_targets_of_an_envelope_stand_at_the_gpus_of_their_engine() -> None:
    table = tables(fake.desired("node-a", 0))["power.desired"]
    assert table["tbt_target_ms"].to_pylist() == [50.0, 50.0, None, None]
    assert table["ttft_target_ms"].null_count == 4
    assert table["gpu_reason"].to_pylist() == ["granted"] * 4 and table["reason"].to_pylist() == ["keep the bound"] * 4


def test_evidence_is_a_map_and_the_empty_batch_is_nothing() -> None:
    row = tables(fake.verdict())["anomaly.gpu"].to_pylist(maps_as_pydicts="strict")[0]
    assert row["evidence"] == {"power_w": 480.0, "median_w": 300.0} and row["uuid"] == "GPU-a0"
    assert rows.to_tables(r.AnomalyVerdict, rows.Batch(0, [], [], [])) == {}


def test_what_the_control_has_learned_is_kept_and_null_where_it_says_nothing() -> None:
    record = fake.telemetry("node-a", 1)
    told = r.EngineControl(state="recalibrating", decode_ratio=1.5, time_error_ratio=0.3)
    first = msgspec.structs.replace(record.engines[0], control=told)
    second = msgspec.structs.replace(record.engines[1], control=None)
    rows = tables(msgspec.structs.replace(record, engines=(first, second)))["engine.reading"].to_pylist()
    names = ("state", "decode_ratio", "time_error_ratio", "power_ratio", "chunk_tokens")
    assert [rows[0][f"control_{name}"] for name in names] == ["recalibrating", 1.5, 0.3, None, None]
    assert {rows[1][f"control_{name}"] for name in names} == {None}
