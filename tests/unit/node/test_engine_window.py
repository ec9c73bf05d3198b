"""How long a window of an engine was: by the stamps on its readings, and by its own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agents.node.engine_signal import KNOWN, Columns, Window
from agents.node.envelope import NO_TARGETS
from models.control import types
from models.control.residual import doubtful
from streams.contract.histogram import bucket
from streams.contract.records import EngineReading, Histogram
from tests.fakes.sources import engine, telemetry

RUNNING, GAP_MS, PROMPT_PER_S = 8, 30.0, 2_000
COLUMNS = Columns(telemetry())


def readings(true_s: Sequence[float], stamps_s: Sequence[float], *, unit: float = 1.0) -> list[EngineReading]:
    """An engine that works steadily, read at the true times and stamped with others; `unit`: what it counts gaps in."""
    found, before_s = [], 0.0
    for at_s, stamp_s in zip(true_s, stamps_s, strict=True):
        made = round((at_s - before_s) * 1e3 / GAP_MS * RUNNING)
        gap_ms = GAP_MS * unit
        found.append(
            engine(
                ts_ns=int(stamp_s * 1e9) + 10**9, running=RUNNING, prompt_tokens_total=round(at_s * PROMPT_PER_S),
                generation_tokens_total=round(at_s * 1e3 / GAP_MS * RUNNING),
                tbt=Histogram(index=(bucket(gap_ms),), count=(max(made, 1),), sum_ms=gap_ms * max(made, 1)),
            )
        )  # fmt: skip
        before_s = at_s
    return found


def windows(found: Sequence[EngineReading]) -> list[types.Window | None]:
    window = Window()
    return [window.observe(one, COLUMNS, (0, 1, 2, 3), NO_TARGETS).window for one in found]


HALVES = [0.5 * i for i in range(1, 21)]


def test_a_window_with_the_right_stamps_is_not_doubted() -> None:
    first, *rest = windows(readings(HALVES, HALVES))
    assert first is None  # nothing lies before it
    for one in rest:
        assert one is not None and one.prompt_tokens == PROMPT_PER_S / 2
        assert one.stamped_s == pytest.approx(0.5) and one.engine_s == pytest.approx(0.5, rel=0.02)
        assert not doubtful(one)


def test_a_stamp_before_its_answer_is_doubted_in_both_windows_that_it_bounds() -> None:
    stamps = list(HALVES)
    stamps[10] -= 0.3
    found = windows(readings(HALVES, stamps))
    assert [i for i, one in enumerate(found) if doubtful(one)] == [10, 11]
    assert all(one is not None and one.engine_s == pytest.approx(0.5, rel=0.02) for one in found[1:])


def test_readings_in_a_bunch_are_doubted_and_time_that_went_back_is_no_length() -> None:
    stamps = [*HALVES[:10], *[5.0 + 0.01 * i for i in range(1, 11)]]
    assert [doubtful(one) for one in windows(readings(HALVES, stamps))[10:]] == [True] * 10
    stamps = list(HALVES)
    stamps[10] -= 1.7
    back = windows(readings(HALVES, stamps))[10]
    assert back is not None and back.stamped_s is None and back.engine_s == pytest.approx(0.5, rel=0.02)
    assert doubtful(back)


@pytest.mark.parametrize("unit", [0.25, 0.7, 1.4, 3.0])
def test_an_engine_that_counts_in_another_unit_is_known_by_what_it_is_usually_off(unit: float) -> None:
    stamps = list(HALVES)
    stamps[15] -= 0.3
    found = windows(readings(HALVES, stamps, unit=unit))
    assert [i for i, one in enumerate(found) if i > KNOWN and doubtful(one)] == [15, 16]


def test_decoding_alone_needs_no_clock() -> None:
    stamps = list(HALVES)
    stamps[10] -= 0.3
    same = [type(one)(**{f: getattr(one, f) for f in one.__struct_fields__} | {"prompt_tokens_total": 7})
            for one in readings(HALVES, stamps)]  # fmt: skip
    assert not any(doubtful(one) for one in windows(same))


@pytest.mark.parametrize(
    "lacks", [{"generation_tokens_total": None}, {"running": None}, {"running": 0}, {"running": -4}, {"tbt": None}]
)
def test_without_a_second_clock_the_stamps_are_believed(lacks: dict[str, None]) -> None:
    import msgspec

    stamps = list(HALVES)
    stamps[10] -= 0.3
    found = windows([msgspec.structs.replace(one, **lacks) for one in readings(HALVES, stamps)])
    assert all(one is None or one.engine_s is None for one in found)
    assert not any(doubtful(one) for one in found)


def test_counters_that_began_again_bound_no_window() -> None:
    found = readings(HALVES, HALVES)
    again = readings([0.1], [20.0])[0]
    assert windows([*found, again])[-1] is None
