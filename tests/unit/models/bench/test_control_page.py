"""The page of the control bench and its part "a wrong model": what is said, and what an older file does not hold."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from models.bench.compare import truth_of
from models.bench.load import Stream
from models.bench.plantparts import Node
from models.bench.protocol import Reference, strategy
from models.bench.run import Case, Outcome, run
from tests.bench.control_page import sections
from tests.bench.control_wrong import first_minutes, wrong_cases

Json = dict[str, Any]
WRITTEN = Path("tests/data/bench_control/azure-conv-2024.json")


def _main() -> Json:
    """The bench's own file, older than the wall's second figure."""
    found: Json = json.loads(WRITTEN.read_text())
    return found


def _row() -> Json:
    row: Json = deepcopy(_main()["results"]["aggressive"])
    return row


def _page(tmp_path: Path, part: str, found: Json) -> str:
    (tmp_path / f"{part}.azure-conv-2024.json").write_text(json.dumps(found))
    return "\n".join(sections(tmp_path, tmp_path))


def test_the_second_wall_stands_beside_the_rule(tmp_path: Path) -> None:
    found = _main()
    found["results"]["aggressive"] |= {
        "wall_saving_ratio": {"b0": 0.534, "b1": 0.362},
        "wall_saving_resting_host_ratio": {"b0": 0.521, "b1": 0.377},
        "wall_saving_resting_host_b0_ratio": {"low": 0.511, "mid": 0.521, "high": 0.531},
        "host_busy_ratio": 0.83,
    }
    text = _page(tmp_path, "main", found)
    assert "| aggressive | 53.4% | 52.1%, 51.1% to 53.1% | 36.2%, 37.7% | 83% |" in text


def test_a_file_older_than_the_second_wall_makes_a_page_without_it(tmp_path: Path) -> None:
    text = _page(tmp_path, "main", _main())
    assert "### azure-conv-2024: strategies" in text and "hosts that follow" not in text


def test_a_wrong_model_stands_beside_the_right_one_and_the_bandit(tmp_path: Path) -> None:
    mine, bandit = _row() | {"missed_ratio": 0.0}, _row() | {"missed_ratio": 0.096}
    mine["first"] = {"gpu_saving_ratio": 0.5, "extra_missed_ratio": 0.0, "near_after_minutes": 10.0}
    bandit["first"] = {"gpu_saving_ratio": 0.2, "extra_missed_ratio": 0.021, "near_after_minutes": None}
    text = _page(tmp_path, "wrong", {"kappa low": {"b0": _row(), "wrong": mine, "right": mine, "bandit": bandit}})
    assert "| kappa low | wrong model | 0.000% | +0.000, +0.000 | 50.0%, " in text
    assert "| kappa low | unshielded bandit | 9.600% | +2.100, +9.600 | 20.0%, " in text
    assert " | 10 min | " in text and " | not in the first hour | " in text


def test_a_file_older_than_the_bandit_says_unknown(tmp_path: Path) -> None:
    text = _page(tmp_path, "wrong", {"kappa low": {key: _row() for key in ("b0", "wrong", "right")}})
    assert "unshielded" not in text and "| unknown, +0.000 | unknown, " in text and " | unknown | " in text


def _outcome(watts: list[float], missed: float = 0.0) -> Outcome:
    """Two hours of which each minute took so many joules (the last goes on) and 100 requests."""
    gpu = np.array([watts[min(k, len(watts) - 1)] for k in range(120)])
    each = np.stack([gpu, np.full(120, 100.0), np.full(120, missed)], axis=1)
    none = np.zeros((2, 1))
    return Outcome("made", none, none, 4.0, Node(), 0, nan, 0, 0.0, minutes=each.cumsum(axis=0))


@pytest.mark.parametrize(
    ("learning", "near"), [(0, 10.0), (5, 13.0), (20, 28.0), (60, None)], ids=["never", "briefly", "slowly", "all hour"]
)
def test_near_is_when_the_last_ten_minutes_are_and_stay_within_three_points(learning: int, near: float | None) -> None:
    zero, right = _outcome([100.0]), _outcome([50.0])
    mine = _outcome([62.0] * learning + [50.0], missed=0.5)
    found = first_minutes(mine, right, zero, 0)
    assert found is not None and found["near_after_minutes"] == near
    assert found["extra_missed_ratio"] == pytest.approx(0.005)
    assert found["gpu_saving_ratio"] == pytest.approx(0.5 - 0.12 * min(learning, 30) / 30)


def test_the_first_minutes_begin_where_the_model_began_to_be_wrong() -> None:
    zero, right = _outcome([100.0]), _outcome([50.0])
    late = _outcome([50.0] * 40 + [90.0] * 8 + [50.0])
    found = first_minutes(late, right, zero, 40)
    assert found is not None and found["gpu_saving_ratio"] == pytest.approx(0.5 - 8 * 0.4 / 30)
    assert first_minutes(late, right, zero, 61) is None  # less than an hour is left


def test_each_right_model_differs_from_the_wrong_one() -> None:
    plant, one = truth_of("mid"), np.ones(4, np.int32)
    case = Case(Stream(np.arange(4.0), one, one, 7200.0), 4, plant, plant)
    for label, (wrong, right) in wrong_cases(case).items():
        assert wrong.belief == plant, label
        told = (right.belief, right.long_prompt, right.told)
        assert told != (wrong.belief, wrong.long_prompt, wrong.told), label
        assert (wrong.truth, wrong.later) == (right.truth, right.later) and wrong.stream is right.stream, label


def test_a_controller_that_is_told_believes_it_from_then_on() -> None:
    rng = np.random.default_rng(5)
    arrival, plant = np.sort(rng.uniform(0.0, 900.0, 5400)), truth_of("mid")
    stream = Stream(arrival, np.full(5400, 1500, np.int32), np.full(5400, 60, np.int32), 900.0)
    slow = plant._replace(flop_share=plant.flop_share * 0.75, flop_inverse=plant.flop_inverse / 0.75)
    case = Case(stream, 4, plant, plant, later=(420.0, slow))
    policy = strategy("aggressive", Reference(0.6, 0.04, 3.0, 0.02))
    alone, same, told = (
        run(one, policy).minutes
        for one in (case, replace(case, told=(420.0, plant)), replace(case, told=(420.0, slow)))
    )
    assert (same == alone).all()
    assert (told[:7] == alone[:7]).all() and not (told[7:] == alone[7:]).all()


def test_a_short_recording_that_breaks_its_bound_says_so(tmp_path: Path) -> None:
    kept, over = _row(), _row()
    kept["p99_change_ratio"] = {"ttft": 0.05, "tbt": -0.04, "e2e": 0.10}
    over["p99_change_ratio"] = {"ttft": 0.02, "tbt": -0.04, "e2e": 0.051}
    cut = {"replicas": 9, "results": {"balanced": kept, "conservative": over}}
    text = _page(tmp_path, "short", {"2, 14:00, 0.5": cut})
    lines = [line for line in text.splitlines() if line.startswith("| 2, 14:00, 0.5 | 9 | ")]
    assert [line.split(" | ")[-1] for line in lines] == ["kept |", "**over** |"]
    assert "+5.0% / -4.0% / +10.0%" in lines[0]
