"""`eo whatif`: its result on a recorded strategy, and one sentence for every archive that it cannot use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest

from agents.cli import whatif_archive
from agents.cli.main import main
from agents.cli.whatif import ceilings
from agents.cli.whatif_archive import read
from agents.cli.whatif_frame import Group
from models.control.controller import LocalController
from models.control.types import Decision, Observed
from models.policy.holdout import in_holdout
from models.twin.params import TwinParams
from streams.contract import records as r
from tests.fakes import archive as plain
from tests.fakes import twin_archive as twin


@pytest.fixture(scope="module")
def truth() -> twin.Truth:
    return twin.run(TwinParams(), name="aggressive")


@pytest.fixture(scope="module")
def archive(truth: twin.Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return twin.write(tmp_path_factory.mktemp("ran") / "archive", truth)


def test_the_strategy_that_really_ran_is_reproduced(
    archive: Path, truth: twin.Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "whatif.json"
    assert main(["whatif", "--archive", str(archive), "--strategy", "aggressive", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    [stack] = result["stacks"]
    power = next(row for row in stack["check"] if row["quantity"] == "power_w")
    assert power["error_ratio"] < 0.05 and power["passed"]
    warm = 75 - int(stack["replayed_s"])
    measured_j = truth.power_w[:, warm:].sum() * twin.GPUS
    assert stack["measured"]["energy_j"] == pytest.approx(measured_j, rel=0.02)
    assert stack["whatif"]["energy_j"] == pytest.approx(measured_j, rel=max(2 * power["error_ratio"], 0.03))
    assert stack["whatif"]["saving_ratio"]["against_default"] > 0.2
    low, high = stack["whatif"]["interval"]["against_default"]
    assert low < stack["whatif"]["saving_ratio"]["against_default"] < high
    assert [row["kappa"] for row in stack["variants"]] == ["low", "mid", "high"]
    assert stack["whatif"]["extrapolated"]["ratio"] < 0.05  # the archive shows these clocks
    assert result["really_ran"] == ["aggressive"] and result["label"].startswith("SIMULATED")
    assert result["shares"]["archive_rows"] == {"measured": 0.0, "estimated": 0.0, "simulated": 1.0}
    shown = capsys.readouterr().out
    assert "what-if [SIMULATED]: strategy aggressive" in shown and "twin at default" in shown
    assert "saving against default clocks" in shown and "clock changes" in shown


def test_a_budget_that_holds_clocks_below_what_was_shown_is_extrapolated_and_says_whose_bounds_it_breaks(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Watts, not locks, lower the clocks here: 200 W a GPU leaves them at a third of the highest."""
    out = tmp_path / "whatif.json"
    words = ["whatif", "--archive", str(archive), "--strategy", "balanced", "--json", str(out)]
    assert main([*words, "--budget-w", "2400"]) == 0
    result = json.loads(out.read_text())
    [stack] = result["stacks"]
    found, bounds = stack["whatif"]["extrapolated"], stack["whatif"]["bounds"]
    assert found["by_limit_ratio"] > 0.3 and found["ratio"] >= found["by_limit_ratio"]
    assert found["lowest_mhz"] < 0.6 * 1980
    [unclaimed] = found["unclaimed"]
    assert "of the highest, and no published curve holds below 60 %" in unclaimed
    p99 = stack["whatif"]["p99_ms"]
    assert p99["tbt"]["strategy_controlled"] > bounds["p99_ms"]["tbt"] >= p99["tbt"]["default_controlled"]
    assert bounds["kept"] is False and result["budget"]["bounds_kept"] is False
    shown = capsys.readouterr().out
    assert " EXTRAPOLATED" in shown and "by a power limit) at clocks down to" in shown and unclaimed in shown
    assert f"p99 tbt {p99['tbt']['strategy_controlled']:,.1f} ms where {bounds['p99_ms']['tbt']:,.1f} ms" in shown
    assert "under this budget the strategy's bounds are NOT kept; give a higher --budget-w" in shown


def test_the_controllers_of_a_replay_are_told_the_ceiling_that_they_run_under(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or they would take it for a wrong model, as on a node that is not told."""
    told: list[tuple[float | None, bool]] = []
    step = LocalController.step

    def watched(self: LocalController, *args: Any, observed: Observed | None, **how: Any) -> Decision:
        decision = step(self, *args, observed=observed, **how)
        if observed is not None:
            told.append((observed.limit_w, self.recalibrating))
        return decision

    monkeypatch.setattr(LocalController, "step", watched)
    assert main(["whatif", "--archive", str(archive), "--strategy", "balanced", "--budget-w", "2400"]) == 0
    limits = [limit_w for limit_w, _ in told]
    assert limits.count(200.0) > len(limits) / 2 and None not in limits
    assert sum(drifted for _, drifted in told) < len(told) / 100


def test_a_budget_that_touches_nothing_extrapolates_nothing(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "whatif.json"
    words = ["whatif", "--archive", str(archive), "--strategy", "aggressive", "--json", str(out)]
    assert main([*words, "--budget-w", "8400"]) == 0
    [stack] = json.loads(out.read_text())["stacks"]
    found = stack["whatif"]["extrapolated"]
    assert found["by_limit_ratio"] == 0.0 and found["unclaimed"] == []
    assert stack["whatif"]["bounds"]["kept"] is True


def _refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 3) -> str:
    assert main(["whatif", *words]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("eo whatif: ")
    return error


def test_archives_without_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no folder; name the archive" in _refused(capsys, "--archive", str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "holds no readable rows; `eo demo`" in _refused(capsys, "--archive", str(tmp_path / "empty"))
    hour = tmp_path / "torn" / "topic=engine.reading" / "date=2025-01-15" / "hour=10"
    hour.mkdir(parents=True)
    (hour / "p0-0-9.parquet").write_bytes(b"PAR1 cut off")
    assert "holds no readable rows: 1 files are broken" in _refused(capsys, "--archive", str(tmp_path / "torn"))


def test_archives_that_cannot_tell_load_or_latency_are_refused(
    truth: twin.Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for missing, sentence in (
        ("engines", "has no rows of a serving engine, so neither load nor latency is known"),
        ("tbt", "no histogram of tbt, so arrivals and latency are unknown"),
        ("prompt_tokens_total", "no engine counts its prompt tokens, so the load is unknown"),
    ):
        folder = twin.write(tmp_path / missing, truth, without=frozenset({missing}))
        assert sentence in _refused(capsys, "--archive", str(folder))
    holes = twin.write(tmp_path / "holes", truth, silent=range(10, 60))
    assert "s without a gap, 60 s are needed" in _refused(capsys, "--archive", str(holes))


def test_ranges_budgets_and_names_are_checked(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--archive", str(archive))
    sentence = _refused(capsys, *base, "--from", "2025-01-15T10:59:00Z")
    assert (
        "the range holds 44 s of engine rows, 60 s are needed; the archive goes from 2025-01-15T10:58:30Z" in sentence
    )
    assert "the range holds 0 s" in _refused(capsys, *base, "--to", "2025-01-14T00:00:00Z")
    sentence = _refused(capsys, *base, "--budget-w", "2000")
    assert "--budget-w 2000 is below the floor" in sentence and "the least feasible budget is 2400 W" in sentence
    assert "strategy 'bold' does not exist; one of" in _refused(capsys, *base, "--strategy", "bold", code=2)
    assert "is not above 0 and finite" in _refused(capsys, *base, "--budget-w", "nan", code=2)
    assert "is below 600; give more" in _refused(capsys, *base, "--engine-seconds", "5", code=2)
    assert "--engine-seconds -5 is below 600; give more" in _refused(capsys, *base, "--engine-seconds", "-5", code=2)
    for word in ("inf", "nan", "-inf"):
        sentence = _refused(capsys, *base, f"--engine-seconds={word}", code=2)
        assert f"--engine-seconds {word} is no finite number; give 600 or more, such as 24000" in sentence
    sentence = _refused(capsys, *base, "--json", str(archive), code=2)
    assert f"--json {archive} is a folder; name a file in it" in sentence
    assert "'noon' is no time" in _refused(capsys, *base, "--from", "noon", code=2)
    words = ("--from", "2025-01-02T00:00:00Z", "--to", "2025-01-01T00:00:00Z")
    assert "give a range that goes forward" in _refused(capsys, *base, *words, code=2)


def test_a_broken_file_is_left_out_and_named(truth: twin.Truth, tmp_path: Path) -> None:
    folder = twin.write(tmp_path / "archive", truth)
    [spoilt] = (folder / "topic=power.desired").rglob("*.parquet")
    plain.spoil(spoilt, "scrambled")
    material = read(folder, start_ns=None, end_ns=None, engine_seconds=20_000)
    assert material.strategies == () and len(material.series) == 1
    assert any(str(spoilt) in note for note in material.notes)


def test_a_long_range_is_cut_into_blocks(archive: Path) -> None:
    material = read(archive, start_ns=None, end_ns=None, engine_seconds=60 * 3)
    [series] = material.series
    assert series.slots == 60 and np.count_nonzero(series.seam) > 1
    assert "60 s of 75 s are used, in blocks" in material.notes[0]


def test_a_budget_is_a_sum_of_ceilings_over_the_whole_cluster(archive: Path) -> None:
    material = read(archive, start_ns=None, end_ns=None, engine_seconds=20_000)
    material.others_w, material.weights = 500.0, [2.0]  # every engine stands for two, of 4 GPUs each
    assert ceilings(material, 500 + 24 * 450.0) == [pytest.approx(450.0)]
    assert ceilings(material, 1e9) == [700.0] and ceilings(material, None) == [None]
    material.series = [replace(material.series[0], holdout=np.array([True, False, False]))]
    assert ceilings(material, 500 + 8 * 700.0 + 16 * 450.0) == [pytest.approx(450.0)]


def test_an_archive_of_hold_outs_only_takes_the_twin_as_reference(truth: twin.Truth, tmp_path: Path) -> None:
    held = twin.Truth(truth.power_w, [twin.all_held(record) for record in truth.records])
    folder = twin.write(tmp_path / "archive", held)
    material = read(folder, start_ns=None, end_ns=None, engine_seconds=20_000)
    assert material.flagged == [False] and not material.series[0].holdout.any()


def test_without_envelopes_the_hold_out_is_the_one_that_the_product_would_choose() -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE power_desired (engine VARCHAR, holdout BOOLEAN, ts_ns BIGINT)")
    engines = tuple(f"e{i}" for i in range(100))
    group = Group(stack="s", workload="chat", gpus=4, engines=engines, step_s=1.0)
    held, flagged = whatif_archive._holdout(connection, whatif_archive.Material("c1", 0, 1), group)
    connection.close()
    assert not flagged and 10 <= len(held) <= 15  # the hash names more than the least, and they count
    assert all(in_holdout("c1", name, 0.15) for name in held)


def test_an_engine_that_was_held_out_for_a_part_of_the_range_is_no_measure_of_it() -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE power_desired (engine VARCHAR, holdout BOOLEAN, ts_ns BIGINT)")
    rows = [("always", True), ("always", True), ("moved", True), ("moved", False), ("never", False)]
    connection.executemany("INSERT INTO power_desired VALUES (?, ?, 1)", rows)
    group = Group(stack="s", workload="chat", gpus=4, engines=("always", "moved", "never"), step_s=1.0)
    found = whatif_archive._holdout(connection, whatif_archive.Material("c1", 0, 1), group)
    connection.close()
    assert found == (frozenset({"always"}), True)


def test_an_archive_of_broken_pages_only_is_refused(
    truth: twin.Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = twin.write(tmp_path / "archive", truth)
    for path in folder.rglob("*.parquet"):
        plain.spoil(path, "scrambled")
    sentence = _refused(capsys, "--archive", str(folder))
    assert "has no rows of a serving engine (3 broken files are left out), so neither load nor latency" in sentence


def _moved(record: r.Record, second: int, ns: int) -> r.Record:
    """One second's message with another clock."""
    if not isinstance(record, r.NodeTelemetry) or record.seq != second:
        return record
    engines = tuple(msgspec.structs.replace(one, ts_ns=one.ts_ns + ns) for one in record.engines)
    return msgspec.structs.replace(record, ts_ns=record.ts_ns + ns, engines=engines)


@pytest.mark.parametrize(("years", "named"), [(20, "2045-01-10"), (-30, "1995-01-23")])
def test_rows_of_a_clock_that_jumped_are_left_out_and_named(
    years: int, named: str, truth: twin.Truth, tmp_path: Path
) -> None:
    ns = years * 365 * 86_400 * 10**9
    folder = twin.write(tmp_path / "archive", twin.Truth(truth.power_w, [_moved(one, 40, ns) for one in truth.records]))
    material = read(folder, start_ns=None, end_ns=None, engine_seconds=20_000)
    assert material.seconds_total == 74 and material.series[0].step_s == 1.0
    assert any(f"left out 3 engine rows from {named}" in note and "jumped" in note for note in material.notes)


def test_an_archive_from_the_future_is_read_and_said(archive: Path) -> None:
    material = read(archive, start_ns=None, end_ns=None, engine_seconds=20_000, now_ns=twin.START_NS)
    assert any("after now: the clock of whoever recorded it was ahead" in note for note in material.notes)
    assert not read(archive, start_ns=None, end_ns=None, engine_seconds=20_000).notes


def test_a_clock_set_back_leaves_too_little(
    truth: twin.Truth, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty seconds are told twice; what is left of the range is too short, and that is said."""
    back = [_moved(one, one.seq, -20 * 10**9) if getattr(one, "seq", 0) >= 40 else one for one in truth.records]
    folder = twin.write(tmp_path / "archive", twin.Truth(truth.power_w, back))
    assert "s of engine rows, 60 s are needed" in _refused(capsys, "--archive", str(folder))


def test_a_range_too_long_for_its_engines_names_the_days(
    archive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whatif_archive, "MOST_CELLS", 60)
    sentence = _refused(capsys, "--archive", str(archive))
    assert "is too long a range for 3 engines that report every 1 s; give at most 0.0 days" in sentence


def test_a_gpu_that_serves_a_replayed_stack_for_a_part_of_the_range_is_no_other() -> None:
    """Its ceiling is counted with its series: among the others too, it would refuse budgets that can be kept."""
    rows = [("a", "s1"), ("a", "s2"), ("b", "s2"), ("c", None)]
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE telemetry_node (uuid VARCHAR, node VARCHAR, limit_default_w DOUBLE, stack VARCHAR, ts_ns BIGINT)"
    )
    connection.executemany("INSERT INTO telemetry_node VALUES (?, 'n1', 700.0, ?, 1)", rows)
    served = SimpleNamespace(series=[SimpleNamespace(stack="s1")], notes=[])
    assert whatif_archive._others(connection, served, {"start": 0, "end": 2}) == (1400.0, 1)  # type: ignore[arg-type]
