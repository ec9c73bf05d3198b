"""`eo bench twin` and `eo bench limit` as a user calls them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from agents.cli import bench_limit, bench_twin, sweep_files
from agents.cli.main import main
from models.control.training import Rules
from models.policy.trial_run import replay
from models.twin.calibrated import shipped
from models.twin.gates import Row

SWEEP = """gpu,model,power_limit_W,step_time_s,average_power_W
new,resnet,300,1.000,250
new,resnet,275,1.004,245
new,resnet,250,1.010,228
new,resnet,225,1.020,210
new,resnet,200,1.090,188
new,resnet,150,,150
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.csv"
    path.write_text(SWEEP)
    return path


def test_limit_writes_what_was_chosen_and_what_it_costs(sweep: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.md"
    assert main(["bench", "limit", "--sweep", str(sweep), "--json", str(out), "--write", str(page)]) == 0
    result = json.loads(out.read_text())
    (row,) = result["sweeps"]
    assert row["chosen"] == row["oracle"] == 225.0
    assert row["slowdown"] == pytest.approx(0.02) and row["saving"] == pytest.approx(1 - 1.02 * 210 / 250)
    assert row["steps"] <= 5_000 and result["judged"]["passed"] is True
    assert result["skipped"] == {"sweep.csv": {"row without a positive number": 1}}
    assert "Not used of sweep.csv: 1 x row without a positive number." in page.read_text()
    assert "simulated" in page.read_text()


def test_limit_fails_when_a_demand_is_missed(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of 100 steps leaves 5 for measuring: nothing can be chosen, and the oracle's saving is missed."""
    assert main(["bench", "limit", "--sweep", str(sweep), "--run-steps", "100", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["judged"]["passed"] is False and result["sweeps"][0]["chosen"] == 300.0


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (None, (), "is no file; give a CSV or Parquet file of a sweep, or `all` for those that are shipped"),
        ("a,b\n1,2\n", (), "no power limit, clock or batch size among the columns a, b"),
        ("a,b\n1,2,3\n", (), "is no table: no row has the 2 columns of its header"),
        ("\x00\x01\x02", (), "holds zero bytes, so it is no UTF-8 text; save it as CSV in UTF-8"),
        (
            "power_limit_W,power_limit_W\n1,2\n",
            (),
            "names the column 'power_limit_W' more than once, with other values",
        ),
        (
            "\n".join(["power_limit_W,time_s,power_w,note", *(f"{w},1,{w},try {w}" for w in (300, 200, 100))]),
            (),
            "; the column 'note' splits the rows, so take out what does not tell workloads apart",
        ),
        (
            "\n".join(["power_limit_W,time_s,power_w,note,host", *(f"{w},1,{w},n{w},h{w}" for w in (300, 200, 100))]),
            (),
            "the columns 'note' and 'host' together split the rows",
        ),
        ("power_limit_W,time_s,power_w\n300,,\n", (), "holds no usable sweep (1 x row without a positive number)"),
        (SWEEP, ("--slowdown", "5"), "--slowdown 5 is outside 0 to 1; 0.05 means five percent"),
        (SWEEP, ("--run-steps", "9"), "--run-steps 9 is below 100; give the length of the run in training steps"),
        (SWEEP, ("--seeds", "0"), "--seeds 0 is below 1; one noisy run of each sweep is the least"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(
    text: str | None, arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.csv"
    if text is not None:
        path.write_text(text)
    assert main(["bench", "limit", "--sweep", str(path), *arguments]) != 0
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_comments_torn_rows_and_disorder_are_survived(tmp_path: Path) -> None:
    """A file as people keep them: a comment, a byte order mark nowhere, rows in any order, one cut off, some twice."""
    lines = SWEEP.splitlines()
    path = tmp_path / "messy.csv"
    shuffled = [lines[0], *reversed(lines[1:]), lines[2], "new,resnet,260"]
    path.write_text("# measured by hand\n# watts at the wall\n" + "\n".join(shuffled) + "\n")
    found = sweep_files.recorded(path)
    (one,) = found.sweeps
    assert one.setting.tolist() == [200.0, 225.0, 250.0, 275.0, 300.0] and one.time_s[-1] == 1.0
    assert found.skipped == {"row without a positive number": 1, "row with another number of columns": 1}
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + SWEEP.encode())
    assert len(sweep_files.recorded(tmp_path / "bom.csv").sweeps[0].setting) == 5


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_are_read(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(SWEEP.replace(",", delimiter))
    (one,) = sweep_files.recorded(path).sweeps
    assert one.setting.tolist() == [200.0, 225.0, 250.0, 275.0, 300.0]


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: data.decode().encode("utf-16"), lambda data: data])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_packed_and_wide_text_is_the_same_sweep(delimiter: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "plain.csv.gz"  # by what it holds, not by its name
    path.write_bytes(pack(("# by hand\n" + SWEEP).replace(",", delimiter).encode()))
    (one,) = sweep_files.recorded(path).sweeps
    assert one.setting.tolist() == [200.0, 225.0, 250.0, 275.0, 300.0]


def test_stages_of_a_pipeline_are_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["gpu,stage,instruction,sm_clock_MHz,time_s,energy_J"]
    for stage, load in enumerate((1.0, 1.4, 1.0)):
        for side in ("forward", "backward"):
            for clock in (1000, 1200, 1400):
                time_s = load * 1400 / clock
                rows.append(f"z,{stage},{side},{clock},{time_s:.4f},{time_s * (80 + 300 * (clock / 1400) ** 3):.2f}")
    path = tmp_path / "stages.csv"
    path.write_text("\n".join(rows) + "\n")
    main(["bench", "limit", "--sweep", str(path), "--seeds", "1", "--json"])
    free, bounded = json.loads(capsys.readouterr().out)["pipelines"]
    assert free["slowdown"] == pytest.approx(0.0, abs=1e-9) and free["saving"] > 0.03
    assert bounded["slowdown"] <= 0.05 + 1e-9 and bounded["saving"] >= free["saving"]


def test_short_runs_go_where_other_jobs_say_and_are_better_for_it() -> None:
    """Recorded limit sweeps, 250 steps each: with what other jobs say, and walking outwards without it."""
    found, _ = bench_limit.cases(["all"])
    limits = [case for case in found if case.knob == "limit_w"]
    saved = {}
    for name, rules in (("promise", Rules()), ("walk", Rules(hoped=inf))):
        runs = [replay(case.table, bound=0.05, run_steps=5_000, seed=3, rules=rules) for case in limits]
        assert max(one.slowdown for one in runs) <= 0.05 and max(one.measuring_ratio for one in runs) <= 0.05
        saved[name] = sum(one.saving for one in runs)
    possible = sum(case.table.saving(case.table.oracle(0.05)) for case in limits)
    assert saved["promise"] >= 0.70 * possible and saved["promise"] >= 1.1 * saved["walk"]


def test_a_device_left_out_is_searched_with_what_the_others_say() -> None:
    found, _ = bench_limit.cases(["all"])
    few = [case for case in found if case.knob == "limit_w"][::6]
    rows = bench_limit.left_out(few, bound=0.05)
    assert {row["device"] for row in rows} >= {"v100", "a40", "p100"}
    assert all(row["worst_slowdown"] <= 0.05 and row["worst_measuring_ratio"] <= 0.05 for row in rows)
    assert bench_limit.left_out([case for case in few if case.device == "v100"], bound=0.05) == []


def test_an_unwritable_result_names_the_file(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "limit", "--sweep", str(sweep), "--json", "/proc/no/out.json"]) == 2
    assert "--json /proc/no/out.json cannot be written (No such file or directory)" in capsys.readouterr().err


def test_twin_judges_a_file_of_ones_own(sweep: Path) -> None:
    own = bench_twin.own_rows(shipped(), [(sweep, sweep_files.recorded(sweep))])
    assert [row.name for row in own] == [
        "sweep.csv: new: limit -> time",
        "sweep.csv: new: limit -> power",
        "sweep.csv: new: limit -> energy",
        "sweep.csv: not used",
    ]
    assert own[0].n == 2 and own[0].bound is None


def test_twin_exits_with_1_when_a_gate_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = Row(name="a", n=3, error=0.2, bound=0.1, fitted_on="x", judged_on="y")
    beside = Row(name="b", n=3, error=0.2, bound=None, fitted_on="x", judged_on="y")
    monkeypatch.setattr(bench_twin, "judge", lambda **_: [missed, beside])
    out = tmp_path / "twin.json"
    assert main(["bench", "twin", "--json", str(out), "--write", str(tmp_path / "twin.md")]) == 1
    result = json.loads(out.read_text())
    assert [one["passed"] for one in result["gates"]] == [False] and result["reported"][0]["passed"] is None
    text = (tmp_path / "twin.md").read_text()
    assert "0 of 1 gates passed. Missed: a." in text and "| a | 3 | 20.0% | 10% | **no** |" in text
