"""Every shipped query on an archive whose answers are known by counting, on the same archive rolled up, and on none."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from agents.cli.sql_run import named
from streams import compaction
from streams.contract.histogram import pool, quantile
from streams.contract.layout import Layout
from streams.contract.records import Histogram
from streams.sinks import archive_reader, sql_files
from tests.fakes import archive as fake

MISSING = frozenset({10, 11})  # seconds of node-a that never arrived
KWH = 1 / 3.6e6
QUERIES = sorted(sql_files.load("queries"))


@pytest.fixture(scope="module", params=["raw", "rolled up"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """The small archive, as the job leaves it and as compaction leaves it: the answers must be the same."""
    folder = fake.build(tmp_path_factory.mktemp("archive"), missing=MISSING)
    if request.param == "rolled up":
        later_ns = fake.START_NS + 6 * 3600 * 10**9
        report = compaction.compact(folder, now_ns=later_ns)
        assert report.rolled_up >= 5
    return archive_reader.open_reader(folder).connection


def by(rows: list[dict[str, Any]], *keys: str) -> dict[Any, dict[str, Any]]:
    return {tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]]: row for row in rows}


@pytest.mark.parametrize("name", QUERIES)
def test_the_header_names_the_columns_and_every_column_is_explained(
    archive: duckdb.DuckDBPyConnection, name: str
) -> None:
    query = sql_files.load("queries")[name]
    cursor = archive.execute(query.sql, {param.name: param.default for param in query.params})
    assert [column[0] for column in cursor.description] == [column for column, _ in query.columns]
    assert all(meaning for _, meaning in query.columns) and query.question.endswith("?")
    assert cursor.fetchall(), "the small archive has an answer to every question"


@pytest.mark.parametrize("name", QUERIES)
def test_an_empty_archive_gives_an_empty_answer(tmp_path: Path, name: str) -> None:
    assert named(archive_reader.open_archive(Layout(tmp_path)), name) == []


def test_power_by_node_hour(archive: duckdb.DuckDBPyConnection) -> None:
    rows = by(named(archive, "power_by_node_hour"), "node", "hour")
    ten, eleven = datetime(2025, 1, 15, 10, tzinfo=UTC), datetime(2025, 1, 15, 11, tzinfo=UTC)
    assert len(rows) == 4
    later = rows["node-a", eleven]
    assert (later["gpus"], later["gpu_power_w_mean"], later["node_power_w_mean"]) == (4, 300.0, 1200.0)
    assert later["energy_kwh"] == pytest.approx(1200 * 90 * KWH, rel=1e-4)
    assert (later["coverage_ratio"], later["simulated_ratio"]) == (1.0, 1.0)
    earlier = rows["node-a", ten]
    assert earlier["coverage_ratio"] == pytest.approx(88 / 90, abs=1e-4)
    assert earlier["energy_kwh"] == pytest.approx(1200 * 90 * KWH, rel=2e-3), "the counter bridges the gap"
    assert rows["node-b", eleven]["gpu_power_w_max"] == 400.0


def test_idle_burners(archive: duckdb.DuckDBPyConnection) -> None:
    [row] = named(archive, "idle_burners")
    assert (row["uuid"], row["engine"], row["idle_power_w_mean"], row["idle_ratio"]) == ("GPU-b2", None, 100.0, 1.0)
    assert row["idle_energy_kwh"] == pytest.approx(100 * 180 * KWH, rel=1e-3)
    assert len(named(archive, "idle_burners", {"util_max": 1.0})) == 7


def test_energy_by_stack_and_engine(archive: duckdb.DuckDBPyConnection) -> None:
    stacks = by(named(archive, "energy_by_stack"), "stack")
    served, idle = stacks[fake.STACK], stacks[None]
    assert (served["engines"], served["gpus"], idle["engines"], idle["gpus"]) == (3, 6, 0, 1)
    assert served["energy_kwh"] == pytest.approx((4 * 300 + 2 * 400) * 180 * KWH, rel=1e-3)
    assert served["energy_ratio"] + idle["energy_ratio"] == pytest.approx(1.0)
    engines = by(named(archive, "energy_by_engine"), "engine")
    assert engines["eng-3"]["energy_kwh"] == pytest.approx(2 * 400 * 180 * KWH, rel=1e-3)
    assert (engines[None]["gpus"], engines[None]["idle_energy_kwh"]) == (1, engines[None]["energy_kwh"])
    assert engines["eng-1"]["idle_energy_kwh"] == 0


def test_joules_per_token(archive: duckdb.DuckDBPyConnection) -> None:
    row = by(named(archive, "joules_per_token"), "hour")[datetime(2025, 1, 15, 11, tzinfo=UTC)]
    assert row["generated_tokens"] == 3 * 100 * 90 and row["tokens_per_s"] == pytest.approx(300, rel=2e-3)
    assert row["j_per_token"] == pytest.approx((4 * 300 + 2 * 400) / 300, abs=1e-3)


def test_throttled_by_us(archive: duckdb.DuckDBPyConnection) -> None:
    rows = by(named(archive, "throttled_by_us"), "uuid")
    ours, default = rows["GPU-a0"], rows["GPU-b0"]
    assert (ours["locked_ratio"], ours["limited_ratio"], ours["capped_by_us_ratio"]) == (1.0, 1.0, 0.5)
    assert (default["locked_ratio"], default["limited_ratio"], default["capped_by_us_ratio"]) == (0.0, 0.0, 0.0)
    assert (ours["samples"], ours["sm_mhz_mean"], default["sm_mhz_mean"]) == (178, 1200.0, 1980.0)


def test_commands_and_effect(archive: duckdb.DuckDBPyConnection) -> None:
    [row] = named(archive, "commands_and_effect")
    assert (row["commands"], row["gpus"], row["effect_w_mean"], row["effect_known_ratio"]) == (2, 2, -100.0, 0.5)
    assert (row["tbt_p99_change_ratio"], row["loop_ms_mean"]) == (0.1, 200.0)


def test_savings_against_the_holdout(archive: duckdb.DuckDBPyConnection) -> None:
    [row] = named(archive, "savings_holdout")
    assert (row["power_w_controlled_mean"], row["power_w_holdout_mean"], row["saving_ratio"]) == (300.0, 400.0, 0.25)
    assert (row["saving_low_ratio"], row["saving_high_ratio"]) == (None, None), "one hold-out engine has no spread"
    assert (row["controlled_units"], row["holdout_units"], row["controlled_gpus"], row["holdout_gpus"]) == (2, 1, 4, 2)
    assert (row["j_per_token_controlled"], row["j_per_token_holdout"]) == (
        pytest.approx(6.0, rel=1e-3),
        pytest.approx(8.0, rel=1e-3),
    )
    assert (row["minutes"], row["simulated_ratio"]) == (4, 1.0)


def test_the_interval_of_the_saving_is_that_of_the_log_ratio(tmp_path: Path) -> None:
    watts = {"eng-1": (290.0, True), "eng-2": (310.0, True), "eng-3": (390.0, False), "eng-4": (410.0, False)}
    _arms(tmp_path, watts)
    [row] = named(archive_reader.open_reader(tmp_path).connection, "savings_holdout")
    spread = 1.96 * math.sqrt(200 / (2 * 300**2) + 200 / (2 * 400**2))
    assert row["saving_ratio"] == 0.25
    assert row["saving_low_ratio"] == pytest.approx(1 - 0.75 * math.exp(spread), abs=1e-4)
    assert row["saving_high_ratio"] == pytest.approx(1 - 0.75 * math.exp(-spread), abs=1e-4)


def test_the_minute_in_which_control_began_does_not_count(tmp_path: Path) -> None:
    fake.write(tmp_path, [fake.telemetry(node, second) for second in range(150) for node in fake.NODES])
    fake.write(tmp_path, [fake.desired(node, second) for second in range(50, 150, 5) for node in fake.NODES])
    fake.write(tmp_path, [fake.applied(node, second) for second in range(50, 150, 5) for node in fake.NODES])
    connection = archive_reader.open_reader(tmp_path).connection
    [row] = named(connection, "savings_holdout")
    assert row["saving_ratio"] == 0.25
    arms = by(named(connection, "latency_by_group"), "arm")
    # Control began 20 s into the second minute, so the third is left: 60 s of two engines, and of the hold-out.
    assert (arms["controlled"]["tokens"], arms["controlled"]["engines"]) == (60 * 10 * 2, 2)
    assert (arms["holdout"]["tokens"], row["minutes"]) == (60 * 10, 1)


def _arms(folder: Path, watts: dict[str, tuple[float, bool]]) -> None:
    """One GPU per engine, half of them commanded, the others held out."""
    saved = dict(fake.NODES), dict(fake.TBT)
    fake.NODES.clear()
    fake.NODES["node-x"] = tuple(
        (name, (f"GPU-{name}",), not commanded, power) for name, (power, commanded) in watts.items()
    )
    fake.TBT.update(dict.fromkeys(watts, (100, 10)))
    try:
        fake.write(folder, [fake.telemetry("node-x", second) for second in range(60)])
        fake.write(folder, [fake.desired("node-x", 5), fake.desired("node-x", 35)])
        fake.write(folder, [fake.applied("node-x", 5), fake.applied("node-x", 35)])
    finally:
        fake.NODES.clear()
        fake.NODES.update(saved[0])
        fake.TBT.clear()
        fake.TBT.update(saved[1])


def test_latency_comes_from_pooled_histograms(archive: duckdb.DuckDBPyConnection) -> None:
    rows = by(named(archive, "latency_by_group"), "arm")
    controlled = pool([Histogram(index=(100,), count=(10,))] * 178 * 2)
    holdout = pool([Histogram(index=(90,), count=(10,))] * 180)
    assert rows["controlled"]["tbt_p99_ms"] == pytest.approx(quantile(controlled, 0.99), abs=1e-3)
    assert rows["controlled"]["ttft_p50_ms"] == pytest.approx(quantile(controlled, 0.5), abs=1e-3)
    assert rows["holdout"]["e2e_p99_ms"] == pytest.approx(quantile(holdout, 0.99), abs=1e-3)
    assert (rows["controlled"]["tokens"], rows["controlled"]["engines"], rows["holdout"]["engines"]) == (3560, 2, 1)
    assert rows["controlled"]["tbt_p99_to_holdout_ratio"] == pytest.approx(2 ** (10 / 32), abs=1e-3)


def test_a_latency_far_above_the_median_is_found(tmp_path: Path) -> None:
    counts = {80: 3, 81: 50, 95: 40, 120: 6, 200: 1}
    saved = dict(fake.TBT)
    try:
        for second, (bucket, count) in enumerate(counts.items()):
            fake.TBT.update({"eng-1": (bucket, count), "eng-2": (bucket, count), "eng-3": (bucket, count)})
            fake.write(tmp_path, [fake.telemetry(node, second) for node in fake.NODES])
    finally:
        fake.TBT.update(saved)
    fake.write(tmp_path, [fake.desired(node, 0) for node in fake.NODES])
    fake.write(tmp_path, [fake.applied(node, 1) for node in fake.NODES])
    expected = pool([Histogram(index=tuple(counts), count=tuple(counts.values()))])
    rows = named(archive_reader.open_reader(tmp_path).connection, "latency_by_group")
    assert [row["arm"] for row in rows] == ["controlled", "holdout"]
    for row in rows:
        assert row["tbt_p50_ms"] == pytest.approx(quantile(expected, 0.5), abs=1e-3)
        assert row["tbt_p99_ms"] == pytest.approx(quantile(expected, 0.99), abs=1e-3)
        assert row["e2e_p99_ms"] == row["tbt_p99_ms"]


def test_quantiles_in_sql_equal_those_of_the_contract(tmp_path: Path) -> None:
    counts = {80: 3, 81: 50, 95: 40, 120: 6, 130: 1}
    histogram = Histogram(index=tuple(counts), count=tuple(counts.values()))
    connection = archive_reader.open_reader(tmp_path).connection
    sql = """
        WITH ranked AS (
            SELECT bucket, hits, sum(hits) OVER (ORDER BY bucket) AS seen, sum(hits) OVER () AS total
            FROM (SELECT unnest($index) AS bucket, unnest($count) AS hits)
        )
        SELECT arg_min(bucket_ms(bucket, 1 - (seen - $q * total) / hits), bucket) FILTER (seen >= $q * total)
        FROM ranked
    """
    for q in (0.01, 0.5, 0.9, 0.99, 1.0):
        [(found,)] = connection.execute(sql, {"index": list(counts), "count": list(counts.values()), "q": q}).fetchall()
        assert found == pytest.approx(quantile(pool([histogram]), q), rel=1e-9)


@pytest.mark.parametrize(("bucket", "scale", "expected"), [(100, 5, 100), (200, 6, 100), (201, 6, 100), (50, 4, 101)])
def test_other_scales_are_brought_to_scale_five(tmp_path: Path, bucket: int, scale: int, expected: int) -> None:
    connection = archive_reader.open_reader(tmp_path).connection
    assert connection.execute("SELECT bucket_at_scale_5(?, ?)", [bucket, scale]).fetchall() == [(expected,)]


def test_lag_and_gaps(archive: duckdb.DuckDBPyConnection) -> None:
    rows = by(named(archive, "lag_and_gaps"), "node")
    assert (rows["node-a"]["messages"], rows["node-a"]["gaps"], rows["node-a"]["lost"]) == (178, 2, 0)
    assert (rows["node-b"]["messages"], rows["node-b"]["gaps"]) == (180, 0)
    assert rows["node-a"]["delay_ms_mean"] == pytest.approx(20, abs=1) and rows["node-a"]["delayed"] == 0


def test_anomalies_with_evidence(archive: duckdb.DuckDBPyConnection) -> None:
    [row] = named(archive, "anomalies_with_evidence")
    assert row["evidence"] == {"power_w": 480.0, "median_w": 300.0}
    assert (row["uuid"], row["commands"], row["window_s"], row["action"]) == ("GPU-a0", 1, 60.0, "freeze")
    assert row["first_command"] == datetime(2025, 1, 15, 10, 59, 35, tzinfo=UTC)


def test_restore_history(archive: duckdb.DuckDBPyConnection) -> None:
    rows = named(archive, "restore_history")
    assert [row["uuid"] for row in rows] == ["GPU-a0", "GPU-a1", "GPU-a2", "GPU-a3"]
    assert all(row["event"] == "restore" and row["back_at_previous"] for row in rows)


def test_data_quality_shares(archive: duckdb.DuckDBPyConnection) -> None:
    rows = by(named(archive, "data_quality_shares"), "dataset")
    telemetry = rows["telemetry_node"]
    assert telemetry["rows_total"] == 178 * 4 + 180 * 3 and telemetry["simulated_ratio"] == 1.0
    assert telemetry["unserved_ratio"] == pytest.approx(180 / (178 * 4 + 180 * 3), abs=1e-4)
    assert (telemetry["unknown_power_ratio"], rows["power_applied"]["unknown_power_ratio"]) == (0.0, None)


def test_point_in_time_does_not_look_ahead(archive: duckdb.DuckDBPyConnection) -> None:
    rows = named(archive, "point_in_time_example", {"commands": 100})
    start = datetime.fromtimestamp(fake.START_NS / 1e9, UTC)
    assert len(rows) == 100
    for row in rows:
        # waste_w counts the seconds: the features known at a command are those of its own second, not a later one.
        assert row["waste_w"] == (row["ts"] - start).total_seconds()
        assert row["feature_age_s"] == 0.0
    assert {row["uuid"] for row in rows} == {"GPU-a0", "GPU-a1", "GPU-a2", "GPU-a3", "GPU-b2"}


def test_features_that_are_too_old_are_unknown(tmp_path: Path) -> None:
    fake.write(tmp_path, [fake.features("node-a", 0), fake.desired("node-a", 5), fake.desired("node-a", 60)])
    connection = archive_reader.open_reader(tmp_path).connection
    rows = named(connection, "point_in_time_example", {"max_age_s": 30})
    ages = sorted({(row["feature_age_s"], row["power_w_mean_60s"]) for row in rows}, key=str)
    assert ages == [(5.0, 300.0), (None, None)]


def test_loop_time_and_refusals(archive: duckdb.DuckDBPyConnection) -> None:
    [loop] = named(archive, "loop_time")
    assert (loop["commands"], loop["loop_ms_p50"], loop["loop_ms_p99"], loop["node_ms_p99"]) == (
        144,  # 36 envelopes for four GPUs; those of the hold-out grant nothing, and one GPU refuses
        200.0,
        200.0,
        50.0,
    )
    [refusal] = named(archive, "refusals_by_reason")
    assert (refusal["reason"], refusal["refusals"], refusal["gpus"]) == ("rate: 1 change per 5 s", 36, 1)
    assert refusal["refused_ratio"] == pytest.approx(36 / 252, abs=1e-6)


def test_fleet_now(archive: duckdb.DuckDBPyConnection) -> None:
    rows = by(named(archive, "fleet_now"), "uuid")
    assert len(rows) == 7
    capped, held = rows["GPU-a0"], rows["GPU-b0"]
    assert (capped["sm_lock_mhz"], capped["limit_w"], capped["last_status"], capped["holdout"]) == (
        1200,
        600.0,
        "restored",
        False,
    )
    assert (held["sm_lock_mhz"], held["holdout"], held["power_w"], held["age_s"]) == (None, True, 400.0, 0.0)


def test_hours_cut_the_past_off(archive: duckdb.DuckDBPyConnection) -> None:
    rows = named(archive, "power_by_node_hour", {"hours": 0.02})
    assert {row["hour"] for row in rows} == {datetime(2025, 1, 15, 11, tzinfo=UTC)}


def test_a_counter_that_was_reset_gives_power_times_time_and_never_a_huge_number(tmp_path: Path) -> None:
    import msgspec

    records = []
    for second in range(60):
        record = fake.telemetry("node-b", 30 + second)
        assert record.gpu is not None and record.gpu.energy_mj is not None
        reset = tuple(int(value or 0) % 15_000_000 for value in record.gpu.energy_mj)
        gpu = msgspec.structs.replace(record.gpu, energy_mj=reset)
        records.append(msgspec.structs.replace(record, gpu=gpu))
    fake.write(tmp_path, records)
    rows = by(named(archive_reader.open_reader(tmp_path).connection, "energy_by_engine"), "engine")
    assert rows["eng-3"]["energy_kwh"] == pytest.approx(2 * 400 * 60 * KWH, rel=1e-3)
