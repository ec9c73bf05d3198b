"""Workers and brokers that die, hang, join and leave: nothing is lost and a duplicate changes nothing."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KafkaForTests
from tests.faults.worker_rig import Fleet, Worker, check_books, dead_letters, until

pytestmark = pytest.mark.integration
Start = Callable[..., Worker]
RUN_STUCK = (
    "import sys; from streams.app import run; from streams.settings import from_env; "
    "sys.exit(run('features', from_env(), target='tests.faults.stuck_job:StuckJob'))"
)


@pytest.fixture
def fleet(topics: str) -> Iterator[Fleet]:
    made = Fleet(topics)
    yield made
    made._stop.set()


@pytest.fixture
def start(topics: str, tmp_path: Path, fleet: Fleet) -> Iterator[Start]:
    """Starts workers of one group; all are ended afterwards."""
    workers: list[Worker] = []

    def begin(*args: str, **env: str) -> Worker:
        workers.append(Worker(topics, tmp_path / f"w{len(workers)}", *args, cluster=fleet.name, **env))
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("failpoint", ["streams.after_poll", "streams.after_effect_before_store"])
def test_a_worker_killed_at_a_failpoint_loses_nothing(start: Start, fleet: Fleet, failpoint: str) -> None:
    fleet.start()
    dying = start(EO_FAILPOINT=f"{failpoint}:kill:12")
    assert dying.wait_end() == -signal.SIGKILL
    next_one = start()
    next_one.wait_ready()
    fleet.stop()
    check_books(fleet, fleet.settle())
    assert next_one.stop() == 0


def test_workers_join_die_in_the_rebalance_and_leave(start: Start, fleet: Fleet) -> None:
    """The first is killed while it gives up partitions to the second; a third takes over from the second in order."""
    fleet.start()
    first = start(EO_FAILPOINT="streams.in_rebalance:kill:2")
    first.wait_ready()
    second = start()
    assert first.wait_end() == -signal.SIGKILL
    second.wait_ready()
    third = start()
    third.wait_ready()
    assert second.stop() == 0
    until(lambda: "[0, 1, 2, 3] assigned, ready" in third.text(), 40, "the third worker has every partition")
    fleet.poison(b"\xff no telemetry")
    fleet.stop()
    check_books(fleet, fleet.settle())
    until(lambda: dead_letters(fleet) == [b"\xff no telemetry"], 20, "the dead letter")
    assert third.stop() == 0


def test_the_supervisor_brings_a_killed_worker_back(start: Start, fleet: Fleet) -> None:
    fleet.start()
    supervisor = start("-m", "agents", "worker", "--only", "features")
    supervisor.wait_ready()
    pid = supervisor.note("features")["pid"]
    assert isinstance(pid, int) and pid != supervisor.process.pid
    assert str(supervisor.note("features")["metrics"]).startswith("127.0.0.1:")
    until(lambda: len(fleet.outputs()) > 50, 30, "features before the kill")
    os.kill(pid, signal.SIGKILL)
    supervisor.wait_ready(times=2)
    fleet.stop()
    check_books(fleet, fleet.settle())
    assert "worker features ended with signal 9" in supervisor.text()
    assert supervisor.stop() == 0
    assert not (supervisor.folder / "run" / "features.json").exists()


def test_a_broker_that_hangs_or_dies_costs_time_and_nothing_else(
    start: Start, fleet: Fleet, kafka: KafkaForTests
) -> None:
    worker = start()
    worker.wait_ready()
    fleet.start()
    until(lambda: len(fleet.outputs()) > 50, 30, "features before the fault")
    kafka.pause()
    try:
        # Longer than the group's session: the worker is thrown out and must come back by itself.
        assert not fleet._stop.wait(4)
    finally:
        kafka.resume()
    before = len(fleet.sent)
    until(lambda: len(fleet.sent) > before + 300, 60, "telemetry after the pause")
    kafka.kill()
    kafka.restart()
    before = len(fleet.sent)
    until(lambda: len(fleet.sent) > before + 300, 60, "telemetry after the death")
    fleet.stop()
    check_books(fleet, fleet.settle())
    assert worker.process.poll() is None, worker.text()
    assert worker.stop() == 0


def test_a_worker_without_progress_or_with_a_hanging_job_says_why_and_exits(start: Start, fleet: Fleet) -> None:
    fleet.start()
    stuck = start("-c", RUN_STUCK, EO_STALL_S="3", EO_ARCHIVE_FLUSH_S="1")
    hang = "streams.after_poll:sleep-60000:2"
    hanging = start(EO_STALL_S="5", EO_ARCHIVE_FLUSH_S="1", EO_FAILPOINT=hang, EO_CLUSTER=f"{fleet.name}-hang")
    assert (stuck.wait_end(), hanging.wait_end()) == (1, 1)
    text = stuck.text()
    assert "eo worker features: no progress for " in text
    assert "on energy.telemetry.node.v1 partition " in text
    assert "records wait); exiting so that the supervisor starts a fresh worker" in text
    assert re.search(r"the worker's loop has stood still for \d+ s \(limit 5 s\) in File", hanging.text())
    assert "failpoints.py" in hanging.text()


def test_a_job_that_raises_ends_the_worker_and_its_batch_is_read_again(start: Start, fleet: Fleet) -> None:
    fleet.start()
    failing: Any = start(EO_FAILPOINT="streams.after_effect_before_store:raise:3")
    assert failing.wait_end() == 1
    assert "FailpointRaised: streams.after_effect_before_store" in failing.text()
    next_one = start()
    next_one.wait_ready()
    fleet.stop()
    check_books(fleet, fleet.settle())
    assert next_one.stop() == 0
