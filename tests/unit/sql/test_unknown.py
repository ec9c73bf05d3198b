"""Queries on telemetry that is slow or lacks something: time is not a count of samples, and unknown is not 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from agents.cli.sql_run import named
from streams.contract import records as r
from streams.sinks import archive_reader, sql_files
from tests.fakes import archive as fake

NODE, GPUS = "node-a", 4  # each at 300 W


def sampled(folder: Path, seconds: range, **columns: Any) -> duckdb.DuckDBPyConnection:
    """Telemetry at these seconds; `columns` replace those of the GPUs."""
    records: list[r.Record] = []
    for second in seconds:
        record = fake.telemetry(NODE, second)
        assert record.gpu is not None
        records.append(msgspec.structs.replace(record, gpu=msgspec.structs.replace(record.gpu, **columns)))
    fake.write(folder, records)
    return archive_reader.open_reader(folder).connection


@pytest.mark.parametrize("step_s", [1, 5, 20])
@pytest.mark.parametrize("columns", [{}, {"energy_mj": None}], ids=["counter", "no counter"])
def test_energy_and_time_do_not_depend_on_the_rate(tmp_path: Path, step_s: int, columns: dict[str, Any]) -> None:
    connection = sampled(tmp_path, range(30, 630, step_s), **columns)
    [stack] = named(connection, "energy_by_stack")
    assert stack["energy_kwh"] == pytest.approx(GPUS * 300 * 600 / 3.6e6, rel=1e-6)  # 0.2 kWh
    assert stack["gpu_hours"] == pytest.approx(GPUS * 600 / 3600, abs=1e-3)
    [node] = named(connection, "power_by_node_hour", {"hours": 0.1})
    assert node["coverage_ratio"] == 1.0
    idle = named(connection, "idle_burners", {"util_max": 1.0})
    assert [row["idle_h"] for row in idle] == [pytest.approx(600 / 3600, abs=1e-3)] * GPUS


def test_samples_that_are_missing_lower_the_coverage_at_any_rate(tmp_path: Path) -> None:
    seconds = [second for second in range(30, 630, 5) if not 300 <= second < 330]
    fake.write(tmp_path, [fake.telemetry(NODE, second) for second in seconds])
    [*_, row] = named(archive_reader.open_reader(tmp_path).connection, "power_by_node_hour")
    assert row["coverage_ratio"] == pytest.approx(1 - 6 / 108, abs=1e-4)


def test_the_energy_of_a_single_sample_is_unknown(tmp_path: Path) -> None:
    connection = sampled(tmp_path, range(30, 31), energy_mj=None)
    [stack] = named(connection, "energy_by_stack")
    assert (stack["energy_kwh"], stack["gpu_hours"], stack["gpu_power_w_mean"]) == (None, None, 300.0)
    assert named(connection, "power_by_node_hour")[0]["coverage_ratio"] is None


def test_utilisation_that_is_unknown_everywhere_gives_no_idle_energy(tmp_path: Path) -> None:
    connection = sampled(tmp_path, range(30, 90), util_ratio=None)
    rows = named(connection, "energy_by_engine")
    assert {row["idle_energy_kwh"] for row in rows} == {None} and all(row["energy_kwh"] > 0 for row in rows)
    assert named(connection, "idle_burners") == []


def test_energy_that_is_unknown_everywhere_gives_no_idle_energy(tmp_path: Path) -> None:
    connection = sampled(tmp_path, range(30, 90), power_w=None, energy_mj=None)
    assert {row["idle_energy_kwh"] for row in named(connection, "energy_by_engine")} == {None}


def test_an_engine_whose_energy_is_known_in_part_does_not_seem_thrifty(tmp_path: Path) -> None:
    connection = sampled(
        tmp_path, range(30, 90), energy_mj=None, power_w=(300.0, None, 300.0, 300.0)
    )  # eng-1 has an unknown GPU
    [row] = named(connection, "joules_per_token")
    assert (row["engines"], row["j_per_token"]) == (1, pytest.approx(6.0, rel=1e-3))


def test_throttling_and_limits_that_are_unknown_are_not_zero(tmp_path: Path) -> None:
    connection = sampled(tmp_path, range(30, 90), throttle=None, limit_default_w=None)
    names = ("limited", "capped_by_us", "capped_by_default", "thermal", "brake")
    for row in named(connection, "throttled_by_us"):
        assert [row[f"{name}_ratio"] for name in names] == [None] * len(names)
        assert row["locked_ratio"] == 1.0


def test_every_number_that_a_user_may_give_has_bounds() -> None:
    for query in sql_files.load("queries").values():
        for param in query.params:
            assert param.bounds is not None and param.allows(param.default), (query.name, param.name)
            assert not param.allows(float("nan")) and not param.allows(float("inf")) and not param.allows(-1)
