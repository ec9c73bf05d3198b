"""One job as a Faust application: `build` wires it, `run` is the whole life of a worker process."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
import time
from typing import Any, Final

from streams import preflight, run_note
from streams.contract.topics import Topic
from streams.errors import StreamsError, WorkerStalled
from streams.jobs import registry
from streams.jobs.base import Job, JobContext
from streams.liveness import EndOffsets, Liveness, Standing
from streams.metrics import WorkerMetrics
from streams.observe.trace import JobTracing, OtelSettings, TracingError
from streams.progress import Partition, Progress
from streams.publisher import Publisher
from streams.runtime import Runtime
from streams.security import credentials
from streams.settings import WorkerSettings
from streams.state import StateStore
from streams.transport import FetchTuning, StreamApp, check_pins
from streams.watchdog import Watchdog

BUFFERED_BATCHES: Final = 8  # per topic, between the fetcher and the job
QUIET: Final = ("faust", "mode", "aiokafka", "asyncio")
# Faust's services log under the module of their class: starts, stops, and every timer that a busy second delays.
SERVICES: Final = "streams.transport"
log = logging.getLogger(__name__)


def build(job: Job, settings: WorkerSettings) -> StreamApp:
    """The Faust app of a job, ready to start: one agent per topic, batches, commits by progress, no topic made.

    Call it inside a running event loop. `app.runtime` runs the job.
    """
    group = settings.group(job.name)
    app = StreamApp(
        group,
        broker=[f"kafka://{host}" for host in settings.bootstrap.split(",")],
        broker_credentials=credentials(),
        broker_client_id=group,
        broker_session_timeout=settings.session_s,
        broker_heartbeat_interval=settings.heartbeat_s,
        broker_rebalance_timeout=settings.rebalance_s,
        broker_request_timeout=settings.request_s,
        broker_commit_interval=settings.commit_interval_s,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.instance_id,
        stream_wait_empty=False,
        stream_buffer_maxsize=BUFFERED_BATCHES,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        web_enabled=False,
        key_serializer="raw",
        value_serializer="raw",
        datadir=str(settings.layout.run / "faust"),
    )
    app.progress = Progress()
    own = FetchTuning(settings.max_batch, settings.fetch_max_wait_ms, settings.fetch_min_bytes)
    app.fetch = getattr(job, "fetch", own)
    app.runtime = Runtime(job, _context(job, settings), progress=app.progress, metrics=WorkerMetrics(job.name))
    app.hooks = app.runtime
    for topic in job.topics:
        _agent(app, topic)
    return app


def _context(job: Job, settings: WorkerSettings) -> JobContext:
    client = settings.group(job.name)
    publisher = Publisher(settings.bootstrap, client)
    state = StateStore(
        settings.bootstrap, publisher, cluster=settings.cluster, client_id=client, interval_s=settings.snapshot_s
    )
    return JobContext(
        settings=settings,
        publisher=publisher,
        state=state,
        layout=settings.layout,
        wall_ns=time.time_ns,
        monotonic=time.monotonic,
        log=logging.getLogger(f"streams.jobs.{job.name}"),
        tracing=_tracing(job.name),
    )


def _tracing(job: str) -> JobTracing | None:
    """Off, and nothing imported, unless an OTLP endpoint is set. Raises StreamsError for one that cannot work."""
    try:
        settings = OtelSettings.from_env()
    except TracingError as error:
        raise StreamsError(str(error)) from error
    if not settings.traces:
        return None
    from streams.observe.sdk import SdkTracer

    return JobTracing(SdkTracer(settings, f"eo-worker-{job}"))


def _agent(app: StreamApp, topic: Topic) -> None:
    channel = app.topic(
        topic.name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", allow_empty=True
    )

    async def batches(stream: Any) -> None:
        await app.runtime.consume(topic, stream.noack())

    app.agent(channel, name=f"{app.conf.id}-{topic.name}")(batches)


def run(job_name: str, settings: WorkerSettings, *, target: str | None = None) -> int:
    """Runs one job until SIGTERM or SIGINT; returns the exit code. `target` overrides the registry ("module:Class")."""
    configure_logging(job_name)
    try:
        check_pins()
        job = registry.load(target or registry.resolve(job_name))
        preflight.check(settings.bootstrap, job=job.name, topics=job.topics, group=settings.group(job.name))
        _calm_collector()
        asyncio.run(_serve(job, settings))
    except StreamsError as error:
        print(f"eo worker {job_name}: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(job: Job, settings: WorkerSettings) -> None:
    app = build(job, settings)
    runtime: Runtime = app.runtime
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runtime.stopping.set)
    runtime.job.start(runtime.ctx)
    runtime.metrics.cost(f"worker:{job.name}", runtime.ctx.publisher)
    for collector in getattr(job, "collectors", tuple)():
        runtime.metrics.registry.register(collector)
    address = runtime.metrics.serve(settings.metrics_host, settings.metrics_port)
    note = run_note.write(settings.layout, job.name, role=f"worker:{job.name}", metrics=address)
    tasks: list[asyncio.Task[Any]] = []
    watchdog = Watchdog(settings.stall_s)
    watchdog.start()
    try:
        await app.start()
        for part in (runtime.tick_forever(watchdog.beat), _watch(app, settings), _crash(app)):
            tasks.append(loop.create_task(part))
            tasks[-1].add_done_callback(runtime.ended)
        await runtime.stopping.wait()
        await runtime.finish()
    finally:
        for task in tasks:
            task.cancel()
        await app.stop()
        watchdog.stop()
        if runtime.ctx.tracing is not None:
            await asyncio.to_thread(runtime.ctx.tracing.tracer.close)
        run_note.forget(note)
    if runtime.failure is not None:
        raise runtime.failure


async def _crash(app: StreamApp) -> None:
    """Turns a crash inside Faust into the worker's end."""
    while not app.crashed:
        await asyncio.sleep(0.5)
    app.runtime.fail(app.crash_reason or RuntimeError("Faust gave no reason"), "inside Faust")


async def _watch(app: StreamApp, settings: WorkerSettings) -> None:
    """Looks at lag and commits about ten times per stall time; ends the worker when it stands still."""
    runtime: Runtime = app.runtime
    ends = EndOffsets(settings.bootstrap, f"{settings.group(runtime.job.name)}-liveness")
    liveness, every_s = Liveness(settings.stall_s), max(0.5, min(5.0, settings.stall_s / 10))
    while True:
        begun = time.monotonic()
        await asyncio.sleep(every_s)
        partitions = runtime.assigned
        found = await asyncio.to_thread(ends.ask, partitions, settings.request_s)
        if found is None:
            log.warning("the broker does not answer; lag is unknown")
            continue
        standings = [await _standing(app, tp, end) for tp, end in found.items()]
        # A look that took long was a broker that did not answer: count only what was really seen.
        reason = liveness.look(standings, min(time.monotonic() - begun, 2 * every_s))
        for at in standings:
            runtime.metrics.lag.labels(*at.tp).set(at.lag)
            runtime.metrics.commit_age.labels(*at.tp).set(liveness.age_s(at.tp))
        if reason is not None and partitions is runtime.assigned:
            runtime.failure = WorkerStalled(reason)
            runtime.stopping.set()


async def _standing(app: StreamApp, tp: Partition, end: int) -> Standing:
    try:
        position = await asyncio.wait_for(app.consumer.position(tp), 5.0)
    except Exception:  # whatever hangs or fails here is what liveness is for
        log.debug("no position for %s", tp, exc_info=True)
        position = None
    progress = app.progress
    return Standing(tp, progress.confirmed(tp), position, end, progress.idle(tp))


def _calm_collector() -> None:
    """Batches of thousands of short-lived lists would start the cycle collector hundreds of times a second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def configure_logging(job: str) -> None:
    """One line per event on stderr; Faust and aiokafka only from WARNING on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {job}: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(SERVICES).setLevel(logging.ERROR)
