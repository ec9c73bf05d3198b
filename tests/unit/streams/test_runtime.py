"""A batch is acknowledged when its effect is durable, never before; a job that fails stops the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from streams.contract import failpoints
from streams.contract.topics import DESIRED, INTENT, TELEMETRY, Topic
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.metrics import WorkerMetrics
from streams.progress import Partition, Progress
from streams.runtime import Runtime
from tests.unit.streams.support import MemoryPublisher, Record, context

TP = Partition(TELEMETRY.name, 0)


class Recorder:
    """A job that notes its calls; named faults: `fail_in` = the call that raises."""

    name = "features"

    def __init__(self, *topics: Topic, outcome: Outcome = Outcome.ACK, fail_in: str = "") -> None:
        self.topics = topics or (TELEMETRY,)
        self.outcome, self.fail_in = outcome, fail_in
        self.calls: list[tuple[str, object]] = []
        self.durable: list[tuple[str, int, int]] = []

    def _call(self, name: str, what: object) -> None:
        self.calls.append((name, what))
        if self.fail_in == name:
            raise ValueError(f"broken {name}")

    def start(self, ctx: JobContext) -> None:
        self.ctx = ctx

    def assign(self, partitions: frozenset[int]) -> None:
        self._call("assign", set(partitions))

    def revoke(self, partitions: frozenset[int]) -> None:
        self._call("revoke", set(partitions))

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        self._call("process", (topic.name, partition, len(records)))
        self.ctx.publisher.send_raw("energy.features.gpu.v1", b"k", b"v")
        return self.outcome

    def tick(self) -> Iterable[tuple[str, int, int]]:
        self._call("tick", None)
        done, self.durable = self.durable, []
        return done

    def stop(self) -> None:
        self._call("stop", None)


class Rig:
    """A runtime with a job, and the consumer's side of the work."""

    def __init__(self, folder: Path, job: Recorder, **settings: Any) -> None:
        self.publisher, self.progress, self.job = MemoryPublisher(), Progress(), job
        ctx = context(folder, publisher=self.publisher, **settings)
        job.start(ctx)
        self.runtime = Runtime(job, ctx, progress=self.progress, metrics=WorkerMetrics(job.name))

    async def open(self, *tps: Partition) -> None:
        self.runtime.assigning(set(tps or (TP,)))
        await asyncio.sleep(0.01)

    async def batch(self, *offsets: int, topic: Topic = TELEMETRY, partition: int = 0) -> None:
        records = [Record(offset, b"", partition=partition) for offset in offsets]
        self.progress.delivered((topic.name, partition), offsets[-1])

        async def stream() -> Any:
            yield records

        await self.runtime.consume(topic, stream())


Scenario = Callable[[Rig], Coroutine[Any, Any, None]]


def play(folder: Path, job: Recorder, scenario: Scenario, **settings: Any) -> Rig:
    async def run() -> Rig:
        rig = Rig(folder, job, **settings)
        await scenario(rig)
        return rig

    return asyncio.run(run())


def test_a_batch_is_acknowledged_after_its_outputs_are_on_the_broker(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        rig.publisher.away = True
        await rig.batch(0, 1, 2)
        rig.runtime.tick()
        assert rig.progress.committable(TP) is None
        rig.publisher.away = False
        rig.runtime.tick()
        assert rig.progress.committable(TP) == 3

    play(tmp_path, Recorder(), scenario)


def test_a_refused_output_stops_the_worker_and_is_not_acknowledged(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        rig.publisher.away = True
        await rig.batch(0)
        rig.publisher.away, rig.publisher.refuse = False, "message too large"
        rig.runtime.tick()
        assert rig.progress.committable(TP) is None
        assert rig.runtime.stopping.is_set()
        assert "message too large" in str(rig.runtime.failure)

    play(tmp_path, Recorder(), scenario)


def test_held_batches_are_acknowledged_when_tick_names_their_offsets(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        await rig.batch(0, 1)
        await rig.batch(2, 3)
        rig.runtime.tick()
        assert rig.progress.committable(TP) is None
        rig.job.durable = [(TELEMETRY.name, 0, 2)]
        rig.runtime.tick()
        assert rig.progress.committable(TP) == 3

    play(tmp_path, Recorder(outcome=Outcome.HOLD), scenario)


def test_state_is_recovered_before_the_first_batch_and_given_up_before_the_partition_goes(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        waiting = asyncio.ensure_future(rig.batch(0))
        await asyncio.sleep(0.01)
        assert rig.job.calls == []
        await rig.open()
        rig.publisher.away = False
        await rig.runtime.revoking({TP})
        await waiting
        assert [name for name, _ in rig.job.calls] == ["assign", "revoke", "tick"]
        rig.progress.forget([TP])  # as the transport does in every rebalance
        await rig.open()
        await rig.batch(5)
        await rig.runtime.revoking({TP})

    rig = play(tmp_path, Recorder(), scenario)
    assert [name for name, _ in rig.job.calls[3:]] == ["assign", "process", "revoke", "tick"]
    assert rig.progress.committable(TP) == 6


def test_a_batch_fetched_before_a_rebalance_is_not_processed_after_it(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        await rig.runtime.revoking({TP})
        late = asyncio.ensure_future(rig.batch(0))
        await asyncio.sleep(0.01)
        await rig.open(Partition(TELEMETRY.name, 1))
        await late

    rig = play(tmp_path, Recorder(), scenario)
    assert not [call for call in rig.job.calls if call[0] == "process"]


@pytest.mark.parametrize("where", ["assign", "process", "tick", "revoke"])
def test_a_job_that_raises_stops_the_worker_and_acknowledges_nothing(tmp_path: Path, where: str) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        if rig.runtime.failure is None:
            await rig.batch(0, 1)
            rig.publisher.away = True
            rig.runtime.tick()
        await rig.runtime.finish()

    rig = play(tmp_path, Recorder(outcome=Outcome.HOLD, fail_in=where), scenario)
    assert f"ValueError: broken {where}" in str(rig.runtime.failure)
    assert rig.runtime.stopping.is_set()
    assert rig.progress.committable(TP) is None
    assert ("stop", None) not in rig.job.calls


def test_after_a_failure_no_further_batch_is_processed(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        await rig.batch(0)
        await rig.batch(1)

    rig = play(tmp_path, Recorder(fail_in="process"), scenario)
    assert len([call for call in rig.job.calls if call[0] == "process"]) == 1


def test_a_tick_that_names_an_unknown_topic_is_a_failure(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        rig.job.durable = [("telemetry", 0, 2)]
        rig.runtime.tick()

    assert "'telemetry', which is not in the contract" in str(play(tmp_path, Recorder(), scenario).runtime.failure)


def test_a_clean_end_flushes_makes_durable_and_stops_the_job(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        await rig.batch(0, 1)
        await rig.runtime.finish()

    rig = play(tmp_path, Recorder(), scenario)
    assert [name for name, _ in rig.job.calls] == ["assign", "process", "revoke", "tick", "stop"]
    assert rig.progress.committable(TP) == 2
    assert rig.publisher.outstanding == 0


def test_partitions_of_a_topic_with_a_count_of_its_own_are_not_the_jobs_partitions(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open(Partition(DESIRED.name, 2), Partition(INTENT.name, 0))

    rig = play(tmp_path, Recorder(DESIRED, INTENT), scenario)
    assert rig.job.calls == [("assign", {2})]


def test_too_many_unsettled_batches_hold_the_job_back_until_the_broker_answers(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        rig.publisher.away = True
        await rig.batch(0)
        held = asyncio.ensure_future(rig.batch(1))
        await asyncio.sleep(0.05)
        assert not held.done()
        rig.publisher.away = False
        await asyncio.wait_for(held, 5)

    play(tmp_path, Recorder(), scenario, max_unsettled=2)


def test_missing_offsets_of_an_uncompacted_topic_are_counted(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open(TP, Partition(DESIRED.name, 0))
        await rig.batch(0, 1)
        await rig.batch(5, 6)
        await rig.batch(0, topic=DESIRED)
        await rig.batch(9, topic=DESIRED)

    rig = play(tmp_path, Recorder(TELEMETRY, DESIRED), scenario)
    assert rig.runtime.metrics.registry.get_sample_value("eo_worker_offset_gaps_total") == 3
    assert rig.runtime.metrics.registry.get_sample_value("eo_worker_records_total") == 6


@pytest.mark.parametrize("name", ["streams.after_poll", "streams.after_effect_before_store"])
def test_an_error_outside_the_job_stops_the_worker_too(tmp_path: Path, name: str) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        beats = asyncio.ensure_future(rig.runtime.tick_forever())
        beats.add_done_callback(rig.runtime.ended)
        rig.publisher.away = True
        await rig.batch(0)
        rig.publisher.away = False
        await asyncio.wait_for(rig.runtime.stopping.wait(), 10)
        beats.cancel()

    failpoints.arm(f"{name}:raise")
    try:
        rig = play(tmp_path, Recorder(), scenario)
    finally:
        failpoints.arm("")
    assert f"FailpointRaised: {name}" in str(rig.runtime.failure)
    assert rig.progress.committable(TP) is None


def test_the_runtime_reaches_its_failpoints(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.open()
        await rig.batch(0)
        rig.runtime.tick()
        await rig.runtime.revoking({TP})

    names = ("streams.after_poll", "streams.after_effect_before_store", "streams.in_rebalance")
    failpoints.arm(",".join(f"{name}:sleep-0:1" for name in names))
    try:
        play(tmp_path, Recorder(), scenario)
        assert [failpoints.count(name) for name in names] == [1, 1, 1]
    finally:
        failpoints.arm("")


def test_a_job_that_judges_rules_has_its_counts_in_the_metrics(tmp_path: Path) -> None:
    class Judge(Recorder):
        def firing(self) -> dict[str, int]:
            return {"hot": 2, "slow": 0}

    metrics = WorkerMetrics("alerts")
    Runtime(Judge(), context(tmp_path), progress=Progress(), metrics=metrics).tick()
    values = {rule: metrics.registry.get_sample_value("eo_alerts_firing", {"rule": rule}) for rule in ("hot", "slow")}
    assert values == {"hot": 2.0, "slow": 0.0}
    plain = WorkerMetrics("features")
    Runtime(Recorder(), context(tmp_path), progress=Progress(), metrics=plain).tick()
    assert plain.registry.get_sample_value("eo_alerts_firing", {"rule": "hot"}) is None
