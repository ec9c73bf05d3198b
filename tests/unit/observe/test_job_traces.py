"""Jobs pass a trace on from exactly the messages that carry one, and look at no header when tracing is off."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streams.contract import codec
from streams.contract.topics import TELEMETRY
from streams.jobs.features import FeaturesJob
from streams.jobs.features_state import PartitionState
from streams.observe.trace import Attributes, JobTracing, traced
from tests.fakes.sources import gpu_columns, telemetry
from tests.unit.jobs.support import Clock, context

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PLAIN = [("content-type", b"application/json"), ("schema", b"1")]


class FakeSpan:
    def __init__(self, name: str, parent: str | None) -> None:
        self.name, self.parent, self.ended = name, parent, False
        self.traceparent = GOOD.replace("00f067aa0ba902b7", "aaaaaaaaaaaaaaaa")

    def set(self, name: str, value: object) -> None:
        return

    def end(self, end_ns: int | None = None) -> None:
        self.ended = True


class FakeTracer:
    def __init__(self) -> None:
        self.spans: list[FakeSpan] = []

    def start(
        self,
        name: str,
        *,
        parent: str | None = None,
        links: Sequence[str] = (),
        start_ns: int | None = None,
        attributes: Attributes | None = None,
    ) -> FakeSpan:
        self.spans.append(FakeSpan(name, parent))
        return self.spans[-1]

    def close(self) -> None:
        return


@dataclasses.dataclass
class Record:
    offset: int
    value: bytes
    headers: Any
    key: bytes = b"n1"
    timestamp: int = 0


class Loud(list[Any]):
    """Headers that nobody may look into."""

    def __len__(self) -> int:
        raise AssertionError("headers were looked at although tracing is off")

    __iter__ = None  # type: ignore[assignment]


def record(seq: int, headers: Any) -> Record:
    sample = msgspec.structs.replace(telemetry(seq * 10**9, gpu=gpu_columns(2), engines=()), seq=seq)
    return Record(seq, codec.encode(sample), headers)


class Outputs:
    dead_letters = 0

    def __init__(self) -> None:
        self.headers: list[dict[str, bytes]] = []

    def send_raw(self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        self.headers.append(dict(headers))


def features(folder: Path, tracing: JobTracing | None) -> tuple[FeaturesJob, Outputs]:
    outputs, job = Outputs(), FeaturesJob()
    job.start(dataclasses.replace(context(folder, Clock()), publisher=outputs, tracing=tracing))  # type: ignore[arg-type]
    job._states[0] = PartitionState()
    return job, outputs


def test_features_pass_a_trace_on_with_the_record_that_carries_one(tmp_path: Path) -> None:
    tracer = FakeTracer()
    job, outputs = features(tmp_path, JobTracing(tracer))
    carrying, hostile = [*PLAIN, ("traceparent", GOOD.encode())], [*PLAIN, ("traceparent", b"\xff" * 55)]
    batch = [record(1, PLAIN), record(2, carrying), record(3, hostile), record(2, carrying)]
    job.process(TELEMETRY, 0, batch)
    assert ["traceparent" in headers for headers in outputs.headers] == [False, True, False]
    assert outputs.headers[1]["traceparent"].decode() == tracer.spans[0].traceparent
    assert [(span.name, span.parent, span.ended) for span in tracer.spans] == [("features.process", GOOD, True)]
    job.process(TELEMETRY, 0, [record(4, PLAIN)])
    assert "traceparent" not in outputs.headers[-1]


def test_features_look_at_no_header_when_tracing_is_off(tmp_path: Path) -> None:
    job, outputs = features(tmp_path, None)
    job.process(TELEMETRY, 0, [record(1, Loud()), record(2, Loud())])
    assert len(outputs.headers) == 2


def test_a_batch_is_traced_once_for_each_record_that_carries_a_trace_also_when_it_fails() -> None:
    tracer = FakeTracer()
    carrying = Record(1, b"", [*PLAIN, ("traceparent", GOOD.encode())])
    with pytest.raises(RuntimeError), traced(JobTracing(tracer), "anomaly.judge", [carrying, Record(2, b"", PLAIN)]):
        raise RuntimeError("job failed")
    assert [(span.name, span.parent, span.ended) for span in tracer.spans] == [("anomaly.judge", GOOD, True)]
