"""A slow source at the side: the loop never waits for it, and an old reading is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from agents.node.errors import SourceError
from agents.node.run import in_background
from agents.node.sources import registry
from agents.node.sources.background import BackgroundSource
from agents.node.sources.base import Probe, Reading
from streams.contract.records import HostReading

LIMIT_S = 20.0


class Steered:
    """A source whose readings a test lets through one by one; fault: `broken`."""

    name = "steered"

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.broken: Exception | None = None
        self.count, self.closed = 0, False

    def probe(self) -> Probe:
        return Probe(True)

    def read(self, now_ns: int) -> Reading:
        self.begun.release()
        assert self.go.acquire(timeout=LIMIT_S)
        if self.broken is not None:
            raise self.broken
        self.count += 1
        return Reading(source=self.name, ts_ns=now_ns, quality="measured", host=HostReading(load1=float(self.count)))

    def close(self) -> None:
        self.closed = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def parts() -> Iterator[tuple[Steered, BackgroundSource, Clock]]:
    source, clock = Steered(), Clock()
    made = BackgroundSource(source, interval_s=0.0, max_age_s=10, first_s=0.0, clock_ns=lambda: 77, monotonic=clock)
    yield source, made, clock
    for _ in range(100):
        source.go.release()
    made._first_s = LIMIT_S
    made.close()
    assert source.closed


def one(source: Steered) -> None:
    """Lets one reading through and waits until the next has begun, which says that the first is stored."""
    source.go.release()
    assert source.begun.acquire(timeout=LIMIT_S)


def load(made: BackgroundSource) -> float | None:
    host = made.read(1).host
    assert host is not None
    return host.load1


def test_the_newest_reading_comes_at_once_and_an_old_one_is_none(
    parts: tuple[Steered, BackgroundSource, Clock],
) -> None:
    source, made, clock = parts
    with pytest.raises(SourceError, match="has not answered yet"):
        made.read(1)
    assert source.begun.acquire(timeout=LIMIT_S)
    one(source)
    assert (load(made), load(made), made.read(1).ts_ns) == (1.0, 1.0, 77)
    one(source)
    assert load(made) == 2.0
    clock.now = 10.5  # the third reading hangs
    with pytest.raises(SourceError, match=r"has not answered for 1\d s \(bound 10 s\)"):
        made.read(1)
    one(source)
    assert load(made) == 3.0


def test_a_failing_reading_is_told_and_the_next_is_tried(parts: tuple[Steered, BackgroundSource, Clock]) -> None:
    source, made, _ = parts
    source.broken = ValueError("odd")
    with pytest.raises(SourceError):
        made.read(1)
    assert source.begun.acquire(timeout=LIMIT_S)
    one(source)
    with pytest.raises(SourceError, match="ValueError: odd"):
        made.read(1)
    source.broken = SourceError("one sentence")
    one(source)
    with pytest.raises(SourceError, match=r"^one sentence$"):
        made.read(1)
    source.broken = None
    one(source)
    assert load(made) == 1.0


def test_only_slow_sources_are_read_at_the_side() -> None:
    entry = registry.SOURCES["dcgm"]
    assert entry.slow
    made = in_background("dcgm", Steered(), 2.0)
    assert isinstance(made, BackgroundSource)
    made.close()
    assert isinstance(in_background("procfs", Steered(), 2.0), Steered)
