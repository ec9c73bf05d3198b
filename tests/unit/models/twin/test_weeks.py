"""Figures of simulated weeks, taken from the control bench's own files and judged beside what is published."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from agents.cli.base import EoError
from agents.cli.bench_twin import page, week_results
from models.twin import gates_engine
from models.twin.calibrated import published
from models.twin.weeks import ALL_KNOBS, CLOCK_ONLY, POWER_OFF, NoResult, collected
from tests.bench.control_parts import keep_parts

PARTS = ("main", "ablation", "kappa", "week", "rivals", "hours")
WRITTEN = Path("tests/data/bench_control/azure-conv-2024.json")


def _long(hours: float = 96.0, *, saving: float = 0.58, wall: float = 0.2, missed: float = 0.0) -> dict[str, Any]:
    """The bench's own file, made longer by hand."""
    result: dict[str, Any] = json.loads(WRITTEN.read_text())
    for row in (*result["results"].values(), *result["baselines"].values()):
        row["hours"] = hours
    result["results"]["aggressive"] |= {"gpu_saving_ratio": {"b0": saving, "b1": 0.5}, "missed_ratio": missed}
    result["baselines"]["b1"]["wall_saving_ratio"] = {"b0": wall, "b1": 0.0}
    return result


def test_an_hour_is_no_week() -> None:
    assert collected({"a.json": json.loads(WRITTEN.read_text())}) == {}
    rows = gates_engine.weeks(published(), {})
    assert [row.passed for row in rows] == [None] * 3 and all(row.n == 0 for row in rows)
    assert "not run: no result of `eo bench control` holds it" in rows[0].note


def test_results_of_the_bench_are_judged() -> None:
    code = _long(saving=0.57, wall=0.38) | {"workload": "azure-code-2024"}
    found = collected({"main.azure-conv-2024.json": _long(), "main.azure-code-2024.json": code})
    assert found[ALL_KNOBS].change == {"code": -0.57, "conversation": -0.58}
    assert found[POWER_OFF].change == {"code": -0.38, "conversation": -0.2}
    knobs, off, clock = gates_engine.weeks(published(), found)
    assert knobs.passed and knobs.error == pytest.approx(0.05) and knobs.n == 2
    assert "simulated: code -57.00%, conversation -58.00%" in knobs.note and "96 judged hours, 1 seed" in knobs.note
    assert off.passed and off.error == 0.0
    assert clock.passed is None and clock.n == 0


def test_a_figure_outside_the_published_range_misses_its_gate() -> None:
    _, off, _ = gates_engine.weeks(published(), collected({"x.json": _long(wall=0.30)}))
    assert off.passed is False and off.error == pytest.approx(0.06)
    knobs, _, _ = gates_engine.weeks(published(), collected({"x.json": _long(saving=0.30)}))
    assert knobs.passed is False


def test_a_week_that_missed_its_slo_is_no_figure_inside_it() -> None:
    assert ALL_KNOBS not in collected({"x.json": _long(missed=0.02)})
    outside = _long()
    outside["results"]["aggressive"]["hours_outside_slo"] = 3
    assert "outside the SLO in 3 of them" in collected({"x.json": outside})[ALL_KNOBS].note


def test_clocks_alone_come_from_the_ablation_and_kappa_from_its_part() -> None:
    row = _long(saving=0.35)["results"]["aggressive"]
    ablation = {"aggressive": row, "aggressive without replicas": row | {"gpu_saving_ratio": {"b0": 0.33, "b1": 0.1}}}
    kappa = _long(hours=24.0)
    kappa["results"]["aggressive"]["saving_interval"] = {"over": "kappa", "gpu": [0.45, 0.6], "wall": [0.4, 0.5]}
    found = collected({"ablation.azure-code-2024.json": ablation, "kappa.json": kappa, "main.json": _long()})
    assert found[CLOCK_ONLY].change == {"code": -0.33}
    assert "kappa -60.0% to -45.0%" in found[ALL_KNOBS].note and found[ALL_KNOBS].change["conversation"] == -0.58
    _, _, clock = gates_engine.weeks(published(), found)
    assert clock.error == 0.0 and clock.passed is None  # reported only, whatever it says


def test_the_longer_run_counts_and_other_traces_do_not() -> None:
    short, other = _long(24.0, saving=0.4), deepcopy(_long(saving=0.9)) | {"workload": "servegen-m-large"}
    found = collected({"a.json": _long(), "b.json": short, "c.json": other})
    assert found[ALL_KNOBS].change == {"conversation": -0.58}


@pytest.mark.parametrize(
    ("value", "said"),
    [([1, 2], "it holds no object at its top"), ({"workload": "azure-conv-2024"}, "holds no policy's savings")],
)
def test_a_file_that_is_no_result_is_named(value: Any, said: str) -> None:
    with pytest.raises(NoResult, match=f"x.json is no result of `eo bench control`: .*{said}"):
        collected({"x.json": value})


def test_results_are_read_from_a_folder_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "main.azure-conv-2024.json").write_text(json.dumps(_long()))
    assert week_results(tmp_path)[ALL_KNOBS].change == {"conversation": -0.58}
    assert week_results(tmp_path / "main.azure-conv-2024.json") == week_results(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"), [(None, "does not exist; give the --json"), ("{", "leave it out, or write it anew")]
)
def test_results_that_cannot_be_read_are_said(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EoError, match=said) as found:
        week_results(path)
    assert "\n" not in str(found.value)
    with pytest.raises(EoError, match=r"holds no \.json file; write some with"):
        (tmp_path / "empty").mkdir()
        week_results(tmp_path / "empty")


def test_scaling_is_judged_by_the_whole_week_where_it_was_run_and_the_judged_days_stay_told() -> None:
    week = _long(168.0, wall=0.20) | {"whole_week": True, "results": {}}
    files = {"main.json": _long(wall=0.05), "week.json": week}
    found = collected(files)[POWER_OFF]
    assert found.change == {"conversation": -0.20} and "days 3 to 6 alone: conversation -5.00%" in found.note
    assert collected({"week.json": week})[POWER_OFF].note.endswith("days 3 to 6 alone: not run")
    assert ALL_KNOBS not in collected({"week.json": week})  # strategies are tuned on its first days
    part = week | {"whole_week": False}  # cut short: neither judged nor told
    assert POWER_OFF not in collected({"week.json": part})
    assert collected({"main.json": files["main.json"], "week.json": part})[POWER_OFF].change == {"conversation": -0.05}
    _, off, _ = gates_engine.weeks(published(), collected(files))
    assert off.passed is True and off.error == 0.0


def test_a_miss_by_a_few_hundredths_of_a_point_is_a_miss_and_is_printed_as_one() -> None:
    code = _long(wall=0.2696) | {"workload": "azure-code-2024"}
    _, off, _ = gates_engine.weeks(published(), collected({"main.json": code}))
    assert off.passed is False and "code -26.96%" in off.note
    assert "| 0.04% | 0% | **no** |" in page([off])


def _parts(folder: Path) -> dict[str, Any]:
    ablation = {name: _long(24.0)["results"]["aggressive"] for name in ("aggressive", "aggressive without replicas")}
    kappa = _long(24.0)
    kappa["results"]["aggressive"]["saving_interval"] = {"over": "kappa", "gpu": [0.45, 0.6], "wall": [0.4, 0.5]}
    files = {
        "main.azure-conv-2024.json": _long(),
        "ablation.azure-conv-2024.json": ablation,
        "kappa.azure-conv-2024.json": kappa,
        "week.azure-conv-2024.json": _long(168.0) | {"whole_week": True, "results": {}, "result": None},
        "rivals.azure-conv-2024.json": _long(24.0),
        "hours.azure-conv-2024.json": {"b0": {"gpu_kwh": [1.0]}},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return files


def test_what_is_kept_beside_the_page_is_all_that_was_run_and_is_judged_as_such(tmp_path: Path) -> None:
    whole, beside = tmp_path / "out", tmp_path / "control"
    whole.mkdir()
    files = _parts(whole)
    written = keep_parts(whole, beside, PARTS)
    assert {path.name: json.loads(path.read_text()) for path in written} == files
    assert week_results(beside) == collected(files) and set(week_results(beside)) == {ALL_KNOBS, POWER_OFF, CLOCK_ONLY}
    assert keep_parts(beside, beside, PARTS) == written  # made anew from itself
    assert {path.name: json.loads(path.read_text()) for path in written} == files


def test_what_was_not_run_again_does_not_stay_beside_the_page(tmp_path: Path) -> None:
    whole, beside = tmp_path / "out", tmp_path / "control"
    whole.mkdir()
    _parts(whole)
    (whole / "ablation.azure-conv-2024.json").unlink()
    beside.mkdir()
    for name in ("ablation.azure-conv-2024.json", "notes.json"):
        (beside / name).write_text("{}")
    keep_parts(whole, beside, PARTS)
    assert not (beside / "ablation.azure-conv-2024.json").exists() and (beside / "notes.json").exists()


def test_other_traces_say_nothing_of_the_published_weeks() -> None:
    assert collected({"other.servegen-m-large.json": _long() | {"workload": "servegen-m-large"}}) == {}
