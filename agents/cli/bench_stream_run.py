"""The measured process of `eo bench stream`: one mode, pinned to one core, prints its figures as JSON and ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from streams.contract.topics import Topic
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.jobs.features import FeaturesJob

if TYPE_CHECKING:
    import faust

TAKE: Final = 500


class Meter:
    """Time and CPU of all threads since the first record."""

    def __init__(self) -> None:
        self._wall_s: float | None = None
        self._cpu_s = 0.0

    def begin(self) -> None:
        if self._wall_s is None:
            self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def report(self, messages: int) -> None:
        assert self._wall_s is not None
        wall_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        print(json.dumps({"messages": messages, "wall_s": wall_s, "cpu_s": cpu_s}), flush=True)


class MeasuredJob(FeaturesJob):
    """The features job; ends its worker when it has read enough and every output is acknowledged."""

    wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 0

    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter()
        self._reported = False

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        self.meter.begin()
        return super().process(topic, partition, records)

    def tick(self) -> Iterable[tuple[str, int, int]]:
        if not self._reported and self.counts.new >= self.wanted and self._ctx.publisher.outstanding == 0:
            self._reported = True
            self.meter.report(self.counts.new)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().tick()


class Wire:
    """Stands in for the publisher where Faust's own producer is measured: keeps what the job wants to send."""

    dead_letters = 0

    def __init__(self) -> None:
        self.out: list[tuple[bytes | None, bytes | None]] = []

    def send_raw(self, topic: str, key: bytes | None, value: bytes | None, headers: object = ()) -> None:
        self.out.append((key, value))


async def plain_faust(mode: str, wanted: int) -> None:
    """The same job in a plain Faust agent, with Faust's consumer, acknowledgements and (per event) producer."""
    from streams.app import _context
    from streams.settings import from_env

    settings = from_env()
    job = MeasuredJob()
    context = _context(job, settings)
    app, done = _app(settings.group("plain"), settings.bootstrap), asyncio.Event()
    if mode == "faust-take":
        job.start(context)
        _take_agent(app, job, context, wanted, done)
    else:
        wire = Wire()
        job.start(_with(context, wire))
        _event_agent(app, job, wire, wanted, done)
    await app.start()
    await done.wait()
    if mode == "faust-take":
        context.publisher.flush(30)
    else:
        await app.producer.flush()
    job.meter.report(job.counts.new)
    await app.stop()


def _app(group: str, bootstrap: str) -> faust.App:
    import faust

    return faust.App(
        group,
        broker=f"kafka://{bootstrap}",
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        web_enabled=False,
        key_serializer="raw",
        value_serializer="raw",
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=1.0,
        stream_wait_empty=False,
        producer_compression_type="zstd",
        producer_acks=-1,
        datadir=os.environ["EO_DATA_DIR"],
    )


def _topic(app: faust.App, name: str) -> Any:
    return app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


def _take_agent(app: faust.App, job: MeasuredJob, ctx: JobContext, wanted: int, done: asyncio.Event) -> None:
    from streams.contract.topics import TELEMETRY

    async def agent(stream: Any) -> None:
        async for events in stream.take_events(TAKE, within=1.0):
            by_partition: dict[int, list[Any]] = {}
            for event in events:
                by_partition.setdefault(event.message.partition, []).append(event.message)
            for partition, messages in by_partition.items():
                job.process(TELEMETRY, partition, messages)
            ctx.publisher.flush(30)
            if job.counts.new >= wanted:
                done.set()

    app.agent(_topic(app, TELEMETRY.name))(agent)


def _event_agent(app: faust.App, job: MeasuredJob, wire: Wire, wanted: int, done: asyncio.Event) -> None:
    from streams.contract.topics import FEATURES, TELEMETRY

    output = _topic(app, FEATURES.name)

    async def agent(stream: Any) -> None:
        async for event in stream.events():
            job.process(TELEMETRY, event.message.partition, [event.message])
            for key, value in wire.out:
                await output.send(key=key, value=value)
            wire.out.clear()
            if job.counts.new >= wanted:
                done.set()

    app.agent(_topic(app, TELEMETRY.name))(agent)


def _with(context: JobContext, publisher: object) -> JobContext:
    import dataclasses

    return dataclasses.replace(context, publisher=publisher)  # type: ignore[arg-type]  # a stand-in for the bench


def main() -> int:
    """`MODE COUNT`, with KAFKA_BOOTSTRAP, EO_DATA_DIR and EO_CLUSTER set."""
    mode, wanted = sys.argv[1], int(sys.argv[2])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if mode == "batch":
        from streams.app import run
        from streams.settings import from_env

        MeasuredJob.wanted = wanted
        return run("features", from_env(), target="agents.cli.bench_stream_run:MeasuredJob")
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(plain_faust(mode, wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
