"""Recordings played at any pace: order, loops, what is kept and what is stamped anew, bad files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agents.node.errors import SourceError
from agents.node.sources.replay import ReplaySource
from streams.contract import codec
from streams.contract.records import HostReading, NodeTelemetry
from tests.fakes.sources import engine, telemetry

SECOND = 10**9
T0 = 1_700_000_000 * SECOND


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "three.jsonl"
    records = [telemetry(T0 + n * SECOND, host=HostReading(load1=float(n))) for n in range(3)]
    path.write_bytes(b"\n".join(map(codec.encode, records)) + b"\n\n")
    return path


def load1(source: ReplaySource, now_ns: int) -> float | None:
    found = source.read(now_ns).host
    assert found is not None
    return found.load1


def test_plays_at_the_recorded_pace_and_again(recording: Path) -> None:
    source = ReplaySource(recording)
    seen = [load1(source, 5 * SECOND + n * SECOND // 2) for n in range(9)]
    assert seen == [0.0, 0.0, 1.0, 1.0, 2.0, 0.0, 0.0, 1.0, 1.0]


def test_plays_ten_times_as_fast_and_skips(recording: Path) -> None:
    source = ReplaySource(recording, speed=10, loop=False)
    assert [load1(source, n) for n in (0, SECOND // 10, SECOND // 5)] == [0.0, 1.0, 2.0]


def test_speed_zero_gives_a_record_a_reading(recording: Path) -> None:
    source = ReplaySource(recording, speed=0)
    assert [load1(source, 1) for _ in range(5)] == [0.0, 1.0, 2.0, 0.0, 1.0]


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_without_a_loop_the_end_is_said(recording: Path, speed: float) -> None:
    source = ReplaySource(recording, speed=speed, loop=False)
    for n in range(3):
        source.read(n * SECOND)
    with pytest.raises(SourceError, match="is at its end; pass loop = true"):
        source.read(4 * SECOND)


def test_quality_and_capability_are_kept_and_times_are_now(recording: Path) -> None:
    reading = ReplaySource(recording).read(99 * SECOND)
    assert (reading.quality, reading.ts_ns, reading.source) == ("simulated", 99 * SECOND, "replay")
    assert [e.ts_ns for e in reading.engines] == [99 * SECOND] * 2
    assert reading.gpu == telemetry().gpu


def test_an_engines_age_in_the_recording_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "late.jsonl"
    path.write_bytes(codec.encode(telemetry(T0, engines=(engine(0, ts_ns=T0 - SECOND),))))
    assert ReplaySource(path).read(50 * SECOND).engines[0].ts_ns == 49 * SECOND


def test_bad_recordings_are_one_sentence(tmp_path: Path) -> None:
    missing, empty, bad = tmp_path / "no.jsonl", tmp_path / "empty.jsonl", tmp_path / "bad.jsonl"
    empty.write_text("\n")
    bad.write_bytes(codec.encode(telemetry(T0)) + b'\n{"cluster": 1}\n')
    assert "cannot be read (No such file" in (ReplaySource(missing).probe().reason or "")
    assert "is empty; record one" in (ReplaySource(empty).probe().reason or "")
    with pytest.raises(SourceError, match="is empty"):
        ReplaySource(empty).read(1)
    source = ReplaySource(bad, speed=0)
    assert source.probe().present is True
    with pytest.raises(SourceError, match="line 2: NodeTelemetry"):
        source.read(1)
    with pytest.raises(SourceError, match="speed -1 is below 0"):
        ReplaySource(bad, speed=-1)
    source.close()


def test_indented_records_play_too(tmp_path: Path) -> None:
    path = tmp_path / "indented.json"
    texts = [msgspec.json.format(codec.encode(telemetry(T0 + n * SECOND))) for n in range(2)]
    path.write_bytes(b"\n".join(texts) + b"\n")
    source = ReplaySource(path, speed=0, loop=False)
    assert [source.read(n).gpu for n in range(2)] == [telemetry().gpu] * 2
    path.write_bytes(texts[0][:-2])
    with pytest.raises(SourceError, match=r"line .*NodeTelemetry"):
        ReplaySource(path).read(1)


def test_every_shipped_recording_plays() -> None:
    folder = Path(__file__).parents[2] / "data" / "replay"
    paths = sorted(folder.glob("*.jsonl"))
    assert paths
    for path in paths:
        source = ReplaySource(path, speed=0, loop=False)
        assert source.probe().present is True
        reading = source.read(1)
        assert reading.gpu is not None or reading.host is not None
        for line in path.read_bytes().splitlines():
            codec.decode(NodeTelemetry, line)
