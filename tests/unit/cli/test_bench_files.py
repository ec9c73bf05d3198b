"""The files of `eo bench control` as people keep them: what is read all the same, and what is refused."""

from __future__ import annotations

import gzip
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.cli import table_file
from agents.cli.base import EoError
from agents.cli.bench_inputs import Workload, workload

HEAD = "timestamp_s,input_tokens,output_tokens"
GOOD = "\n".join([HEAD, "0.5,800,20", "1.5,900,30", "3.5,1000,40", ""])
RATES = "timestamp_s,requests_per_s\n0,4\n60,1\n120,8\n"


def _requests(path: Path) -> Workload:
    return workload(Namespace(workload=None, requests=path, rates=None, lengths=None), kv_limit=4e5)


def _rates(path: Path, lengths: Path | None = None) -> Workload:
    return workload(
        Namespace(workload=None, requests=None, rates=path, lengths=lengths, lengths_service=None), kv_limit=4e5
    )


def _file(tmp_path: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1e3, "beyond the year 2100 (4100000000 s); timestamps are in seconds, so divide these milliseconds by 1,000"),
        (1e6, "so divide these microseconds by 1,000,000"),
        (1e9, "so divide these nanoseconds by 1,000,000,000"),
        (1e15, "so give seconds since 1970 or since the first row"),
    ],
)
def test_stamps_finer_than_seconds_are_refused(tmp_path: Path, factor: float, words: str) -> None:
    """A few minutes of epoch stamps lie within the bound on the span, whatever their unit."""
    stamps = [(1.7e9 + 60.0 * i) * factor for i in range(5)]
    for read, head, rest in ((_rates, "timestamp_s,requests_per_s", ",4"), (_requests, HEAD, ",100,10")):
        path = _file(tmp_path, "\n".join([head, *(f"{t:.0f}{rest}" for t in stamps)]))
        with pytest.raises(EoError, match=re.escape(words)) as error:
            read(path)
        assert f"{path} begins at a time of {stamps[0]:.13g}" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["16/11/2023,1,2", "17/11/2023,1,2"], "line 2, column timestamp_s: '16/11/2023' is neither seconds"),
        (["1,1,", "2,1,"], "line 2, column output_tokens: '' is not a number (such as 1000.5)"),
        (["1,1", "2,1"], "line 2, column output_tokens: '' is not a number"),
        (["1,'x',2", "", "", "1,y,2"], "line 2, column input_tokens: \"'x'\" is not a number"),
        (['1,"1,000",2', '2,"1,000",2'], "line 2, column input_tokens: '1,000' is not a number (such as 1000.5)"),
        (["1,1,000,2", "2,1,000,2"], "line 2: 1 more values than columns; write numbers without separators"),
        (["nan,nan,nan", "nan,nan,nan"], "line 2, column timestamp_s: 'nan' is neither seconds (such as 1000.5) nor"),
        (["1,1,1", "inf,1,1"], "line 3, column timestamp_s: 'inf' is neither seconds"),
        (["1,-5,1", "2,-5,1"], "line 2, column input_tokens: -5 tokens is below 0"),
    ],
)
def test_the_first_line_that_cannot_be_read_is_named(tmp_path: Path, rows: list[str], words: str) -> None:
    path = _file(tmp_path, "\n".join([HEAD, *rows]))
    with pytest.raises(EoError, match=re.escape(words)) as error:
        _requests(path)
    assert str(error.value).startswith(f"{path} holds ") and "give at least 2, with timestamp_s in" in str(error.value)


def test_a_line_is_counted_with_the_empty_ones_before_it(tmp_path: Path) -> None:
    path = _file(tmp_path, "timestamp_s,requests_per_s\n\n\n0,1\n\n60,x\n")
    with pytest.raises(EoError, match=r"line 6, column requests_per_s: 'x' is not a number"):
        _rates(path)


def test_iso_times_are_seconds_and_without_a_zone_utc(tmp_path: Path) -> None:
    stamps = ("2023-11-16 18:17:03.9799600", "2023-11-16T18:17:04.97996Z", "2023-11-16T19:17:06.97996+01:00")
    stream = _requests(_file(tmp_path, "\n".join([HEAD, *(f"{t},9,9" for t in stamps)]))).stream
    assert stream is not None and stream.arrival_s == pytest.approx([0.0, 1.0, 3.0], abs=1e-5)


def _plain(text: str) -> bytes:
    return text.encode()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(
    "pack",
    [
        _plain,
        lambda text: gzip.compress(text.encode()),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode("utf-32"),
    ],
)
def test_other_delimiters_packing_and_encodings_are_read(
    tmp_path: Path, delimiter: str, pack: Callable[[str], bytes]
) -> None:
    stream = _requests(_file(tmp_path, pack(GOOD.replace(",", delimiter)))).stream
    assert stream is not None and stream.prompt.tolist() == [800, 900, 1000] and not stream.notes


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PAR1....", "is a Parquet file; give it as plain CSV, or as CSV packed with gzip"),
        (b"PK\x03\x04....", "is a ZIP archive or a spreadsheet; give it as plain CSV"),
        (b"\x28\xb5\x2f\xfd....", "is compressed with zstd; give it as plain CSV"),
        (GOOD.encode("utf-16-le"), "holds zero bytes, so it is no UTF-8 text; save it as CSV in UTF-8"),
        (gzip.compress(GOOD.encode())[:40], "is a damaged gzip file (Compressed file ended before"),
        (b"\x1f\x8b\x08\x00zzzzzzzzzzzz", "is a damaged gzip file ("),
        (GOOD.replace(",", "|").encode(), "lacks the column 'timestamp_s'; its first line must name timestamp_s"),
        (b"", "lacks the column 'timestamp_s'; its first line must name timestamp_s, input_tokens, output_tokens"),
        (
            b"timestamp_s,input_tokens,output_tokens,input_tokens\n1,2,3,4\n2,2,3,4\n",
            "names the column 'input_tokens' 2 times; keep one of them",
        ),
    ],
)
def test_what_is_no_such_table_is_refused_by_what_it_is(tmp_path: Path, data: bytes, words: str) -> None:
    path = _file(tmp_path, data)
    with pytest.raises(EoError, match=re.escape(f"{path} {words}")) as error:
        _requests(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "head", ["# a\n# b\n" + HEAD, "Timestamp_s, Input_Tokens, Output_Tokens", '"timestamp_s", ' + HEAD[12:]]
)
def test_comments_above_blanks_and_capitals_in_the_header_are_taken(tmp_path: Path, head: str) -> None:
    found = _requests(_file(tmp_path, "\n".join([head, "1, 2, 3", "2,2,3", "3,x" + 99 * "y" + ",1"])))
    assert found.stream is not None and found.stream.prompt.tolist() == [2, 2]
    line = 6 if head.startswith("#") else 4
    shown = "x" + 59 * "y"
    assert f"line {line}, column input_tokens: '{shown}' is not a number" in found.warnings[0]


def test_text_without_line_ends_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "MOST_LINE", 1_000)
    path = _file(tmp_path, gzip.compress(GOOD.encode() + b"0" * 5_000))
    with pytest.raises(EoError, match=r"line 5 has 1,000 characters or more; give a CSV with one row a line"):
        _requests(path)


def test_rows_with_negative_tokens_are_left_out_and_said(tmp_path: Path) -> None:
    found = _requests(_file(tmp_path, GOOD + "4,-1,5\n5,9,-2\n6,x,1\n"))
    assert found.stream is not None and len(found.stream.arrival_s) == 3
    assert found.stream.notes == {"rows_unreadable": 1, "rows_with_negative_tokens": 2}
    assert found.warnings == (
        "3 of 6 rows of t.csv are left out; the first: line 5, column input_tokens: -1 tokens is below 0",
    )


def _cdf(tmp_path: Path, *shares: float) -> Path:
    rows = [f"{name},{cdf},{100 + at}" for name in ("input_tokens", "output_tokens") for at, cdf in enumerate(shares)]
    return _file(tmp_path, "\n".join(["quantity,cdf,tokens", *rows]), "l.csv")


@pytest.mark.parametrize("shares", [(0.4, 0.6), (0.06, 1.0), (0.0, 0.94), (0.0, 100.0)])
def test_a_distribution_of_which_an_end_is_missing_is_refused(tmp_path: Path, shares: tuple[float, ...]) -> None:
    with pytest.raises(EoError, match=re.escape(f"from {shares[0]:g} to {shares[1]:g}")) as error:
        _rates(_file(tmp_path, RATES), _cdf(tmp_path, *shares))
    assert str(error.value).startswith(str(tmp_path / "l.csv"))


def test_percentiles_from_p5_to_p99_are_taken_and_what_is_beyond_them_is_said(tmp_path: Path) -> None:
    said = _rates(_file(tmp_path, RATES), _cdf(tmp_path, 0.05, 0.5, 0.99)).warnings
    assert len(said) == 4 and said[1] == (
        "input_tokens of l.csv ends at cdf 0.99; the 1.00% of the requests beyond it are drawn with 102 tokens"
    )
    assert _rates(_file(tmp_path, RATES), _cdf(tmp_path, 0.0, 1.0)).warnings == ()


def test_a_hole_in_the_rates_is_said_and_does_not_lengthen_the_last_one(tmp_path: Path) -> None:
    found = _rates(_file(tmp_path, "timestamp_s,requests_per_s\n0,4\n60,4\n72000,4\n72060,4\n"))
    assert found.curve is not None and found.curve.days * 86_400.0 == pytest.approx(72_090.0)
    assert found.warnings == ("t.csv has no rate from 60 to 72000 s (20.0 h); a straight line is taken between them",)


def test_rates_hours_apart_look_like_milliseconds(tmp_path: Path) -> None:
    rows = [f"{60_000 * at},4" for at in range(20)]
    (said,) = _rates(_file(tmp_path, "\n".join(["timestamp_s,requests_per_s", *rows]))).warnings
    assert said == "t.csv has one rate in 60,000 s; timestamps are in seconds, so divide milliseconds by 1,000"


@pytest.mark.parametrize(("name", "days"), [("azure-code-2024", 7.00000000012943), ("servegen-m-large", 7.0)])
def test_evenly_spaced_rates_end_where_they_always_did(name: str, days: float) -> None:
    """To the last bit: the judged seconds, and so every published figure, are counted from it."""
    curve = workload(Namespace(workload=name, requests=None, rates=None, lengths=None), kv_limit=4e5).curve
    assert curve is not None and curve.days == pytest.approx(days, rel=1e-15)
