"""The exposition parser: the format's corners, and what hostile, cut and foreign text gets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agents.node.sources import prom_text
from agents.node.sources.prom_text import parse

WHOLE = """# HELP power_w Board power (in W).
# TYPE power_w gauge
power_w{gpu="0", UUID="GPU-a"} 412.5
power_w{gpu="1",UUID="GPU-b",} 1e2 1700000000000
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.1"} 3
wait_seconds_bucket{le="+Inf"} 4
wait_seconds_sum 1.5
wait_seconds_count 4
# TYPE tokens counter
tokens_total 12
bare 7
"""


def test_samples_carry_the_type_of_their_family() -> None:
    found = parse(WHOLE)
    assert [(s.name, s.value, s.type) for s in found] == [
        ("power_w", 412.5, "gauge"),
        ("power_w", 100.0, "gauge"),
        ("wait_seconds_bucket", 3.0, "histogram"),
        ("wait_seconds_bucket", 4.0, "histogram"),
        ("wait_seconds_sum", 1.5, "histogram"),
        ("wait_seconds_count", 4.0, "histogram"),
        ("tokens_total", 12.0, "counter"),
        ("bare", 7.0, "untyped"),
    ]
    assert found[0].labels == {"gpu": "0", "UUID": "GPU-a"}
    assert (found[1].ts_ms, found[0].ts_ms) == (1.7e12, None)
    assert found.help == {"power_w": "Board power (in W)."}
    assert found.problem() is None


def test_escapes_braces_and_hashes_inside_label_values() -> None:
    (sample,) = parse('m{a="x\\"y\\\\z\\n{w}, # }",b=""} 1\n')
    assert sample.labels == {"a": 'x"y\\z\n{w}, # }', "b": ""}


def test_equal_label_blocks_read_equally_with_and_without_the_look_up() -> None:
    found = parse('a{x="}"} 1\nb{x="}"} 2\nc{x="y"} 3\nd{x="y"} 4\n')
    assert [(s.name, s.labels["x"], s.value) for s in found] == [
        ("a", "}", 1),
        ("b", "}", 2),
        ("c", "y", 3),
        ("d", "y", 4),
    ]


def test_names_in_quotes_and_open_metrics() -> None:
    found = parse('{"gpu.power", "host.name"="n1"} 3 1700000000.5 # {trace_id="a"} 0.67 1.5\n# EOF')
    assert [(s.name, s.labels, s.value, s.ts_ms) for s in found] == [
        ("gpu.power", {"host.name": "n1"}, 3.0, 1.7000000005e12)
    ]
    assert not found.cut


@pytest.mark.parametrize(("word", "value"), [("NaN", math.nan), ("+Inf", math.inf), ("-inf", -math.inf), (".5", 0.5)])
def test_special_numbers(word: str, value: float) -> None:
    (sample,) = parse(f"m {word}\n")
    assert sample.value == value or (math.isnan(sample.value) and math.isnan(value))


@pytest.mark.parametrize(
    "line",
    [
        "m", "m one", "m 1_000", "m 0x10", "m ١٢", "m 1 2 3", "m{", 'm{a="b" 1', 'm{a=b} 1', 'm{a="b"c="d"} 1',
        '{a="b"} 1', 'm{a="b",a="c"} 1',
        "9m 1", '{"m","n"} 1', "<html>", "\x00\x01\x02", 'm{a="b\\"} 1', "m 1 x",
    ],
)  # fmt: skip
def test_a_malformed_line_is_counted_and_the_next_is_read(line: str) -> None:
    found = parse(f"{line}\nok 1\n")
    assert [(s.name, s.value) for s in found] == [("ok", 1.0)]
    assert found.malformed == 1
    assert "1 lines are no samples and were skipped (first:" in (found.problem() or "")


def test_half_a_line_is_not_read_because_half_a_number_reads_like_a_number() -> None:
    whole = 'power_w{gpu="0"} 412\npower_w{gpu="1"} 398\n'
    for cut in range(len(whole)):
        values = [s.value for s in parse(whole[:cut])]
        assert values in ([], [412.0]), (cut, values)
    assert parse(whole[:-1]).cut
    assert not parse(whole).cut


def test_text_above_the_bound_is_cut_at_a_line() -> None:
    found = parse("m 1234\n" * 1000, max_bytes=100)
    assert len(found) == 14
    assert found.cut
    assert "the rest is unknown" in (found.problem() or "")
    assert len(parse("m 1\n" * 50, max_samples=20)) == 20


def test_what_is_no_utf8_harms_only_its_own_label() -> None:
    found = parse(b'\xef\xbb\xbfa{x="\xff"} 1\r\n\xfe\xfe 3\nb 2\n')
    assert [(s.name, s.value) for s in found] == [("a", 1.0), ("b", 2.0)]
    assert found[0].labels == {"x": "\ufffd"}


@pytest.mark.parametrize(
    "line",
    [
        'm{a="' + "\\" * 100_000, "m{" + "".join(f'a{n}="b",' for n in range(99)) + "} 1", "m " + "1" * 100_000,
        "m{" + " " * 15_000, '{"' + "a" * 16_000, "m{" + "{" * 9_000,
    ],
)  # fmt: skip
def test_lines_made_to_cost_time_are_skipped(line: str) -> None:
    found = parse(f"{line}\nok 1\n")
    assert [s.name for s in found] == ["ok"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_no_text_makes_it_raise(data: bytes) -> None:
    found = parse(data)
    assert all(prom_text._NUMBER.fullmatch("1") and isinstance(s.value, float) for s in found)


label_values = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True), label_values, max_size=4), st.floats()
)
def test_what_is_written_by_the_rules_is_read_back(labels: dict[str, str], value: float) -> None:
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
    line = "m{" + ",".join(f'{k}="{v}"' for k, v in escaped.items()) + f"}} {value!r}\n"
    (sample,) = parse(line)
    assert sample.labels == labels
    assert repr(sample.value) == repr(value)


@pytest.mark.parametrize("name", ["dcgm_exporter_metrics.txt"])
def test_recordings_read_as_the_reference_parser_reads_them(name: str) -> None:
    text = (Path(__file__).parents[2] / "data/dcgm" / name).read_text()
    theirs = [(s.name, s.labels, s.value) for family in text_string_to_metric_families(text) for s in family.samples]
    ours = [(s.name, s.labels, s.value) for s in parse(text)]

    def key(row: tuple[str, dict[str, str], float]) -> str:
        # The reference renames counters as OpenMetrics does.
        return repr((row[0].removesuffix("_total"), sorted(row[1].items()), float(row[2])))

    assert sorted(map(key, ours)) == sorted(map(key, theirs))
