"""`eo bench control` as a user calls it: the answer's keys, odd traces, and every refusal's sentence."""

from __future__ import annotations

import csv
import json
import random
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

import agents.cli
from agents.cli import bench_stream
from agents.cli.base import EoError
from agents.cli.bench import check_outputs
from agents.cli.bench_control_text import table, warnings
from agents.cli.bench_inputs import workload
from agents.cli.main import main

HEAD = "timestamp_s,input_tokens,output_tokens"


def _trace(path: Path, seconds: float = 240.0, rate: float = 6.0, seed: int = 2) -> Path:
    rng, t = random.Random(seed), 1_000.0
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HEAD.split(","))
        while t < 1_000.0 + seconds:
            t += rng.expovariate(rate)
            rows.writerow([f"{t:.3f}", rng.randint(50, 4_000), rng.randint(1, 200)])
    return path


def _run(*args: str) -> int:
    return main(["bench", "control", *args])


def _answer(tmp_path: Path, *args: str) -> dict[str, Any]:
    out = tmp_path / "out.json"
    assert _run(*args, "--json", str(out)) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_recording_gives_every_key_of_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba")
    found = _answer(tmp_path, "--requests", str(_trace(tmp_path / "t.csv")), "--strategy", "aggressive", "--pareto")
    assert {
        "workload",
        "strategy",
        "days",
        "seeds",
        "kappa",
        "fleet",
        "result",
        "baselines",
        "rivals",
        "seconds",
    } <= set(found)
    result = found["result"]
    for name in ("gpu_saving_ratio", "wall_saving_ratio"):
        assert set(result[name]) == {"b0", "b1"}
    assert set(result["p99_change_ratio"]) == {"ttft", "tbt", "e2e"}
    assert set(result["worst_hour"]) == {"p99_ttft_ms", "p99_tbt_ms", "at"}
    assert {"saving_interval", "hours_outside_slo", "missed_ratio", "joules_per_request", "joules_per_token"} <= set(
        result
    )
    assert set(result["reference_share"]) == {"gpu", "wall"}
    b0 = found["baselines"]["b0"]
    assert b0["gpu_saving_ratio"]["b0"] == 0.0 and b0["p99_ms"]["ttft"] > 0.0
    assert result["gpu_saving_ratio"]["b0"] == pytest.approx(
        1 - result["joules_per_request"] / b0["joules_per_request"]
    )
    assert 0.2 < result["gpu_saving_ratio"]["b0"] < 0.9
    assert found["quality"] == "simulated"
    assert {"aggressive", "b0", "b1"} == {p["name"] for p in found["pareto"]}
    assert "SIMULATED" in capsys.readouterr().out


def test_a_point_of_pareto_is_priced_where_a_kwh_has_a_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("numba")
    trace = ["--requests", str(_trace(tmp_path / "t.csv", seconds=60.0)), "--strategy", "aggressive", "--no-reference"]
    found = _answer(tmp_path, *trace, "--pareto", "--price-per-kwh", "0.5", "--g-per-kwh", "400")
    for point in found["pareto"]:
        assert point["cost"] == pytest.approx(0.5 * point["wall_joules"] / 3.6e6)
        assert point["carbon_g"] == pytest.approx(400.0 * point["wall_joules"] / 3.6e6)
    said = capsys.readouterr().out
    assert "g CO2e/request" in said and "EXTRAPOLATED" not in said
    for point in _answer(tmp_path, *trace, "--pareto")["pareto"]:
        assert point["cost"] is None and point["carbon_g"] is None


def test_a_policy_below_every_published_curve_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit of 300 W holds clocks where nobody has measured them; a lock at 0.60 and our strategies do not."""
    pytest.importorskip("numba")
    found = _answer(
        tmp_path, "--requests", str(_trace(tmp_path / "t.csv", seconds=60.0)), "--strategy", "rivals", "--pareto"
    )
    shares = {r["name"]: r["extrapolated_ratio"] for r in found["rivals"]}
    assert 0.1 < shares["static limit"] < 1.0 and shares["static lock"] == 0.0
    assert not any(r["extrapolated_ratio"] for r in [*found["results"].values(), *found["baselines"].values()])
    said = capsys.readouterr().out
    assert f"| static limit EXTRAPOLATED {shares['static limit']:.1%} |" in said
    assert "| aggressive |" in said and "where no published curve holds" in said


def test_same_arguments_same_answer(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    trace = str(_trace(tmp_path / "t.csv", seconds=90.0))
    one, two = (_answer(tmp_path, "--requests", trace, "--strategy", "balanced", "--no-reference") for _ in range(2))
    assert one["result"] == two["result"]
    assert one["result"]["reference_share"] == {"gpu": None, "wall": None}


def test_gaps_bursts_odd_lengths_and_a_clock_that_goes_back_are_counted_and_served(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    rows = [HEAD, *(f"{i * 0.5},800,20" for i in range(60)), "20.0,0,0", "21.0,500,90000", "22.0,900000,5"]
    rows += [f"{3_000 + (i % 3) * 0.001},3000,40" for i in range(150)] + ["oops,1,1", "3100,700"]
    trace = tmp_path / "odd.csv"
    trace.write_text("\n".join(rows) + "\n")
    found = _answer(tmp_path, "--requests", str(trace), "--strategy", "aggressive", "--no-reference")
    notes = found["notes"]
    assert notes["rows_unreadable"] == 2
    assert notes["refused_over_kv_limit"] == 1
    assert notes["output_clipped"] == 1
    assert notes["prompt_raised_to_1"] == notes["output_raised_to_1"] == 1
    assert notes["clock_went_back"] >= 1
    assert found["result"]["joules_per_request"] > 0.0


def test_rates_and_lengths_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    rates, lengths = tmp_path / "r.csv", tmp_path / "l.csv"
    rates.write_text("timestamp_s,requests_per_s\n0,4\n120,0\n240,8\n")
    lengths.write_text(
        "quantity,cdf,tokens\n"
        + "".join(f"{q},0,10\n{q},1,{n}\n" for q, n in (("input_tokens", 3000), ("output_tokens", 90)))
    )
    found = _answer(
        tmp_path,
        "--rates",
        str(rates),
        "--lengths",
        str(lengths),
        "--strategy",
        "aggressive",
        "--no-reference",
        "--seeds",
        "2",
    )
    assert found["result"]["saving_interval"]["over"].startswith("seeds")
    assert found["seeds"] == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--workload", "azure-code-2042"], "no workload is called 'azure-code-2042'; did you mean azure-code-2024?"),
        (["--workload", "servegen-tiny"], "ServeGen has no model 'tiny' here; one of m-large, m-small."),
        ([], "give exactly one of --workload NAME, --requests FILE and --rates FILE"),
        (["--workload", "azure-code-2024", "--days", "0"], "--days 0 is neither all nor a number above 0"),
        (["--workload", "azure-code-2024", "--days", "1e-9"], "--days 1e-9 is below one minute (0.0007 days); choose"),
        (["--workload", "azure-code-2024", "--days", "nan"], "--days nan is neither all nor a number above 0"),
        (["--workload", "azure-code-2024", "--seeds", "0"], "--seeds 0 is outside 1..50"),
        (["--workload", "azure-code-2024", "--baseline", "b7"], "--baseline 'b7' names no baseline"),
        (["--workload", "azure-code-2024", "--price-per-kwh", "0.3"], "--price-per-kwh prices the points of --pareto"),
        (["--workload", "azure-code-2024", "--pareto", "--g-per-kwh", "-1"], "--g-per-kwh -1 is outside 0..5000"),
        (["--workload", "azure-code-2024", "--pareto", "--price-per-kwh", "nan"], "nan is outside -10..100"),
        (["--workload", "azure-code-2024", "--lengths", "x.csv"], "--lengths goes with --rates"),
        (["--workload", "azure-code-2024", "--lengths-service", "code"], "--lengths-service chooses a service of"),
        (["--requests", "/nowhere.csv"], "/nowhere.csv is not a file"),
        (
            ["--rates", "r.csv", "--lengths", "/nowhere.csv"],
            "/nowhere.csv is not a file; give the path of a CSV with the columns quantity, cdf, tokens",
        ),
    ],
)
def test_refusals_say_what_is_wrong_and_what_to_do(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(*args) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "lacks the column 'timestamp_s'; its first line must name timestamp_s, input_tokens"),
        (HEAD + "\n1,2,3\n2,2,3\n1e12,2,3\n", "bad.csv spans 11,574,074.1 days, over the bound of 60"),
        (HEAD + "\n1,2,3\n", "bad.csv holds 1 readable requests in 1 rows; give at least 2"),
        (HEAD + "\n1,500000,3\n2,500000,3\n", "only 0 requests fit the KV limit of 400000 tokens"),
    ],
)
def test_a_recording_that_cannot_be_served_is_refused(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert _run("--requests", str(path)) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timestamp_s,requests_per_s\n0,1\n5,x\n", "line 3, column requests_per_s: 'x' is not a number (such as"),
        ("timestamp_s,requests_per_s\n0,1\n5,-2\n", "has a rate of -2 requests/s; rates are 0 or more"),
        ("timestamp_s,requests_per_s\n0,0\n5,0\n", "has no rate above 0; nothing would be served"),
        ("timestamp_s,requests_per_s\n0,1\n5,1e308\n", "has a rate of 1e+308 requests/s, over the bound of 1,000,000"),
        ("timestamp_s,requests_per_s\n0,1\n", "has 1 rows; give at least 2"),
        ("timestamp_s,requests_per_s\n5,1\n5,2\n", "has all its 2 rates at one time, 5 s; give at least 2 different"),
        (
            "timestamp_s,requests_per_s\n0,1\n60,2\n1e12,2\n",
            "rates.csv spans 11,574,074.1 days, over the bound of 60; timestamps are in seconds, so divide "
            "milliseconds by 1,000, or take out what lies apart (the widest gap is from 60 to 1e+12)",
        ),
    ],
)
def test_a_rate_curve_that_says_nothing_is_refused(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(text)
    assert _run("--rates", str(path)) == 2
    assert words in capsys.readouterr().err


AZURE = Path(agents.cli.__file__).parent / "bench_data" / "azure2024_lengths_cdf.csv"  # two services in one file
RATES = "timestamp_s,requests_per_s\n0,4\n120,1\n240,8\n"


def _rates(tmp_path: Path, lengths: Path, service: str | None = None, text: str = RATES) -> Namespace:
    rates = tmp_path / "r.csv"
    rates.write_text(text)
    return Namespace(workload=None, requests=None, rates=rates, lengths=lengths, lengths_service=service)


def _cdf(path: Path, prompt: tuple[float, ...] = (10, 3000), output: tuple[float, ...] = (10, 90)) -> Path:
    rows = [
        f"{name},{at / (len(tokens) - 1):g},{value:g}"
        for name, tokens in (("input_tokens", prompt), ("output_tokens", output))
        for at, value in enumerate(tokens)
    ]
    path.write_text("\n".join(["quantity,cdf,tokens", *rows, ""]))
    return path


def test_lengths_over_the_cache_are_refused_and_counted_for_rates_too(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    args = _rates(tmp_path, _cdf(tmp_path / "l.csv", (100, 600_000, 5e12), (10, 60_000)))
    found = _answer(tmp_path, "--rates", str(args.rates), "--lengths", str(args.lengths), "--no-reference")
    assert found["notes"]["refused_over_kv_limit"] > 100 and found["notes"]["output_clipped"] > 100
    assert found["result"]["joules_per_request"] > 0.0


def test_a_load_of_which_nothing_is_served_is_no_table_of_unknowns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("numba")
    rates = _rates(tmp_path, AZURE, text="timestamp_s,requests_per_s\n0,0\n60,1e-9\n").rates
    assert _run("--rates", str(rates), "--no-reference") == 2
    assert "no request of r.csv was served in the judged days, so nothing can be compared" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ((-5, 3000), "line 2, column tokens: -5 tokens is below 0; correct the line or take it out"),
        ((450_000, 5e12), "no request of these lengths fits the KV limit of 400000 tokens (450,000 + 10 at least)"),
    ],
)
def test_lengths_that_no_engine_takes_are_refused(tmp_path: Path, prompt: tuple[float, ...], words: str) -> None:
    with pytest.raises(EoError, match=re.escape(words)):
        workload(_rates(tmp_path, _cdf(tmp_path / "l.csv", prompt)), kv_limit=4e5)


@pytest.mark.parametrize("factor", [1, 1_000])
def test_milliseconds_that_stay_under_the_bound_are_said(tmp_path: Path, factor: int) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([HEAD, *(f"{t * factor},100,10" for t in range(0, 1_600, 2))]))
    said = workload(Namespace(workload=None, requests=path, rates=None, lengths=None), kv_limit=4e5).warnings
    words = (
        "t.csv has one request in 1,998 s over 18.5 days; timestamps are in seconds, so divide milliseconds by 1,000"
    )
    assert said == ((words,) if factor == 1_000 else ())


@pytest.mark.parametrize("service", ["code", "conversation"])
def test_a_service_of_a_file_with_several_is_chosen_by_its_name(tmp_path: Path, service: str) -> None:
    curve = workload(_rates(tmp_path, AZURE, service), kv_limit=4e5).curve
    shipped = Namespace(workload=f"azure-{service[:4]}-2024", requests=None, rates=None, lengths=None)
    known = workload(shipped, kv_limit=4e5).curve
    assert curve is not None and known is not None
    assert curve.lengths.means() == known.lengths.means()


def test_a_file_of_one_service_needs_no_choice(tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    rows = AZURE.read_text().splitlines()
    one.write_text("\n".join([rows[0], *(row for row in rows if row.startswith("code,"))]))
    found, chosen = (workload(_rates(tmp_path, one, name), kv_limit=4e5).curve for name in (None, "code"))
    assert found is not None and chosen is not None and found.lengths.means() == chosen.lengths.means()


@pytest.mark.parametrize(
    ("service", "with_column", "words"),
    [
        (
            None,
            True,
            "holds the lengths of 2 services ('code', 'conversation'); choose one with --lengths-service NAME",
        ),
        ("chat", True, "has no service 'chat'; --lengths-service takes one of 'code', 'conversation'"),
        ("chat", False, "has no column 'service' to find 'chat' in; leave --lengths-service out"),
    ],
)
def test_a_choice_that_the_file_does_not_offer_is_refused(
    tmp_path: Path, service: str | None, with_column: bool, words: str
) -> None:
    lengths = AZURE if with_column else _cdf(tmp_path / "l.csv")
    with pytest.raises(EoError, match=re.escape(words)):
        workload(_rates(tmp_path, lengths, service), kv_limit=4e5)


@pytest.mark.parametrize("what", ["control", "twin", "limit", "loop"])
def test_a_result_that_could_not_be_written_is_refused_before_the_run(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    assert main(["bench", what, "--json", str(tmp_path)]) == 2
    assert f"--json {tmp_path} is a folder; name a file in it, such as {tmp_path}/out.json" in capsys.readouterr().err
    under = tmp_path / "file" / "out.json"
    assert main(["bench", what, "--json", str(under)]) == 2
    assert f"--json {under} cannot be written (File exists); name a file in a folder" in capsys.readouterr().err
    assert main(["bench", what, "--write", str(tmp_path)]) == 2
    assert f"--write {tmp_path} is a folder" in capsys.readouterr().err


def test_the_stream_bench_writes_the_files_that_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_stream, "measure", lambda **_: [])
    monkeypatch.setattr(bench_stream, "page", lambda *_, **__: "# a page")
    out, page = tmp_path / "deep" / "out.json", tmp_path / "other" / "page.md"
    assert main(["bench", "stream", "--json", str(out), "--write", str(page)]) == 0
    assert json.loads(out.read_text()) == [] and page.read_text().startswith("#")


def test_the_check_of_a_result_file_changes_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "deep" / "new.json"
    old.write_text("kept")
    for out in (old, new):
        check_outputs(Namespace(json=str(out)))
    check_outputs(Namespace(json=True, write=None))
    check_outputs(Namespace(json="/dev/null"))
    assert old.read_text() == "kept" and not new.exists()


def test_shipped_traces_have_the_published_totals() -> None:
    class Args:
        workload: str | None = None
        requests = rates = lengths = None

    for name, total in (("azure-conv-2024", 27_303_999), ("azure-code-2024", 16_803_695)):
        Args.workload = name
        curve = workload(Args, kv_limit=4e5).curve
        assert curve is not None
        assert float(curve.rate.mean()) * 7 * 86_400 == pytest.approx(total, rel=0.006)


@pytest.mark.parametrize(
    ("asked", "ran", "missed", "hours", "words"),
    [
        (40, 1, 0.002, 2, "--seeds 40 was asked for and 1 seed was run: a recording of requests is not drawn"),
        (
            1,
            1,
            0.123,
            2,
            "always-on default clocks themselves miss 12.3% of the requests (bound 1%: first token in",
        ),
        (1, 1, 0.009, 0, "no hour had 100 requests or more, so no hour could be judged and 0 of 0 are outside"),
        (2, 2, 0.01, 1, None),
        (1, 1, None, 1, None),
    ],
)
def test_what_a_reader_must_know_of_the_figures_is_a_sentence(
    asked: int, ran: int, missed: float | None, hours: int, words: str | None
) -> None:
    found = {"seeds": ran, "baselines": {"b0": {"missed_ratio": missed, "hours": hours}}}
    said = warnings(found, seeds_asked=asked)
    assert [words in one for one in said] == [True] if words is not None else said == []


def test_warnings_stand_in_the_answer_and_in_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fourteen requests are too few for an hour; one more row cannot be read; and a recording has no seeds."""
    pytest.importorskip("numba")
    trace = tmp_path / "few.csv"
    trace.write_text("\n".join([HEAD, *(f"{at},700,20" for at in range(14)), "x,1,1"]))
    found = _answer(tmp_path, "--requests", str(trace), "--no-reference", "--seeds", "7")
    said = capsys.readouterr()
    assert [one.split(":")[0][:22] for one in found["warnings"]] == [
        "1 of 15 rows of few.cs",
        "--seeds 7 was asked fo",
        "no hour had 100 reques",
    ]
    assert all(f"\nwarning: {one}\n" in said.out for one in found["warnings"])
    assert found["warnings"][0] in said.err  # before the run
    assert found["notes"] == {"rows_unreadable": 1} and "note: 1 x rows unreadable" in said.out
    assert table(found) in said.out


def test_every_rival_runs_on_the_same_trace_and_names_its_source(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    trace = str(_trace(tmp_path / "t.csv", seconds=60.0, rate=8.0))
    found = _answer(tmp_path, "--requests", trace, "--strategy", "rivals", "--no-reference", "--pareto")
    names = [rival["name"] for rival in found["rivals"]]
    assert len(set(names)) == len(names) >= 10
    assert all(rival["source"] and rival["joules_per_request"] > 0.0 for rival in found["rivals"])
    changed = {r["name"]: r["gpu_saving_ratio"]["b0"] for r in found["rivals"]}
    for name in ("static limit", "static lock", "pid", "aimd", "throttllem-like", "greenllm-like", "dynamollm-like"):
        assert changed[name] > 0.01, name
    assert all(rival["ours"]["p99_ms"]["ttft"] > 0.0 for rival in found["rivals"])
    assert set(found["results"]) == {"conservative", "balanced", "aggressive", "ml-driven"}
    assert any(point["dominated_by"] for point in found["pareto"])
