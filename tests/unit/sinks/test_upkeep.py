"""Compaction beside the job: when it is due, only for partitions that are ours, and never in the way of the end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from streams.compaction import Report
from streams.jobs import archive_upkeep
from streams.jobs.archive_upkeep import EVERY_S, Upkeep


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[int]]:
    seen: list[frozenset[int]] = []

    def compact(archive: Path, *, now_ns: int, partitions: frozenset[int], ending: object) -> Report:
        seen.append(partitions)
        return Report(merged=1, replaced=3)

    monkeypatch.setattr(archive_upkeep, "compact", compact)
    return seen


def test_a_pass_is_started_once_a_minute_for_our_partitions(tmp_path: Path, passes: list[frozenset[int]]) -> None:
    clock = Clock()
    upkeep = Upkeep(tmp_path, lambda: 0, clock)
    upkeep.beat()
    clock.now_s = EVERY_S
    upkeep.beat()
    assert passes == [], "nothing is ours yet"
    upkeep.partitions = frozenset({1, 2})
    upkeep.beat()
    upkeep.close()
    assert passes == [frozenset({1, 2})]


def test_the_pass_ends_when_the_partitions_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, told = threading.Event(), threading.Event()

    def compact(archive: Path, *, now_ns: int, partitions: frozenset[int], ending: object) -> Report:
        started.set()
        deadline = threading.Event()
        while not ending() and not deadline.wait(0.005):  # type: ignore[operator]
            pass
        told.set()
        return Report()

    monkeypatch.setattr(archive_upkeep, "compact", compact)
    clock = Clock()
    upkeep = Upkeep(tmp_path, lambda: 0, clock)
    upkeep.partitions, clock.now_s = frozenset({0}), EVERY_S
    upkeep.beat()
    assert started.wait(10)
    upkeep.close()
    assert told.is_set() and upkeep.partitions == frozenset()


def test_a_pass_that_fails_is_logged_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compact(archive: Path, **rest: object) -> Report:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive_upkeep, "compact", compact)
    clock = Clock()
    upkeep = Upkeep(tmp_path, lambda: 0, clock)
    upkeep.partitions = frozenset({0})
    for turn in (1, 2):
        clock.now_s = turn * EVERY_S
        upkeep.beat()
        upkeep.close()
        upkeep.partitions = frozenset({0})
    assert caplog.text.count("the archive stays as it was") == 2
